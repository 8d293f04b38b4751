"""What a job asks of the cluster, read from its spec, and what there is for jobs.

Resources have Ray's names. GPUs of one type are counted twice, as ``GPU`` and as ``GPU:A100``; memory is in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tandem.specs import RAY_KINDS

OF_TYPE = "GPU:"
_RAY_TYPE = "accelerator_type:"  # the resource by which a node says which GPUs it has
_RAYS_OWN = ("node:", "object_store_memory", _RAY_TYPE)
SETTLED_AFTER_S = 60.0  # a head is up before its machines are: what is too large for them isn't refused at once
_EPSILON = 1e-6  # shares of a GPU are floats
_GIB = 2**30

Amounts = Mapping[str, float]


@dataclass(frozen=True)
class Demand:
    """What a job asks for.

    Attributes:
        parts: What each of its workers needs on one machine, and how many of these there are.
        needs: All that it must have to run; its driver holds nothing.
        holds: All that it may come to hold: elastic workers take what there is, up to their maximum.
    """

    parts: tuple[tuple[Amounts, int], ...]
    needs: Amounts
    holds: Amounts


NOTHING = Demand((), {}, {})


def demand(spec: Mapping[str, Any], *, gpus: bool) -> Demand:
    """What a job asks for.

    Args:
        spec: A canonical spec of a job.
        gpus: Whether the cluster has any, which decides where a spec doesn't say.
    """
    if spec["kind"] not in RAY_KINDS:
        return NOTHING
    if spec["kind"] == "finetune":
        return _of_workers(spec, gpus=gpus)
    # The engine of a comparison takes a GPU where there are any.
    engine = 1.0 if spec["kind"] == "compare" and gpus else 0.0
    parts: tuple[tuple[Amounts, int], ...] = ((_each(1.0, engine, None), 1),)
    if spec["kind"] == "index":
        # Reading and chunking hold one beside the actors that embed.
        embedder = spec["embedder"]
        parts = ((_each(1.0, embedder["gpus"], None), embedder["workers"]), *parts)
    needs = summed(parts)
    return Demand(parts, needs, needs)


def _of_workers(spec: Mapping[str, Any], *, gpus: bool) -> Demand:
    workers = spec["workers"]
    least, most = (workers, workers) if isinstance(workers, int) else workers
    of_type = spec["accelerator_type"]
    of_each = spec["gpus_per_worker"]
    if of_each is None:
        of_each = 1.0 if gpus or of_type else 0.0
    each = _each(spec["cpus_per_worker"], of_each, of_type)
    return Demand(((each, least),), summed([(each, least)]), summed([(each, most)]))


def _each(cpus: float, gpus: float, of_type: str | None) -> Amounts:
    amounts = {"CPU": float(cpus)}
    if gpus > _EPSILON:  # less is nothing, to Ray too
        amounts["GPU"] = float(gpus)
        if of_type:
            amounts[OF_TYPE + of_type] = float(gpus)
    return amounts


def summed(amounts: Iterable[tuple[Amounts, float]]) -> dict[str, float]:
    """The sum, each so many times."""
    found: dict[str, float] = {}
    for each, times in amounts:
        for name, amount in each.items():
            found[name] = found.get(name, 0.0) + amount * times
    return found


def minus(amounts: Amounts, less: Amounts) -> dict[str, float]:
    """What is left of each of the amounts; below 0 where more is taken than there is."""
    return {name: amount - less.get(name, 0.0) for name, amount in amounts.items()}


def offered(resources: Amounts) -> Amounts:
    """What a node has for jobs, of what Ray says that it has."""
    amounts = {name: amount for name, amount in resources.items() if not name.startswith(_RAYS_OWN)}
    for name in resources:
        if name.startswith(_RAY_TYPE) and amounts.get("GPU"):
            amounts[OF_TYPE + name.removeprefix(_RAY_TYPE)] = amounts["GPU"]
    return amounts


def lacking(needs: Amounts, free: Amounts) -> dict[str, float]:
    """Of what more is needed than is free, and how much of it is free."""
    return {name: free.get(name, 0.0) for name, need in needs.items() if need > free.get(name, 0.0) + _EPSILON}


@dataclass(frozen=True)
class Room:
    """What the cluster has for jobs.

    Attributes:
        machines: What each node that lives offers.
        grows_to: What the cluster may come to have by Ray's autoscaler; empty where it doesn't grow.
        reserved: Kept from jobs.
        shared: What jobs may hold together; a single one may have all.
        since: Since when it is as it is; seconds since the epoch.
    """

    machines: tuple[Amounts, ...]
    grows_to: Amounts
    reserved: Amounts
    shared: Amounts
    since: float

    @cached_property
    def now(self) -> Amounts:
        """What is there for jobs at the moment, held or not."""
        there = summed((machine, 1) for machine in self.machines)
        return {name: max(0.0, amount - self.reserved.get(name, 0.0)) for name, amount in there.items()}

    @cached_property
    def total(self) -> Amounts:
        """What jobs may hold: what is there, or will be once the cluster has grown."""
        grown = {name: max(0.0, amount - self.reserved.get(name, 0.0)) for name, amount in self.grows_to.items()}
        return {name: max(self.now.get(name, 0.0), grown.get(name, 0.0)) for name in {*self.now, *grown}}

    @cached_property
    def gpus(self) -> bool:
        """Whether a node that lives has any."""
        return any(machine.get("GPU") for machine in self.machines)

    def settled(self, now: float) -> bool:
        """Whether what is too large for it may be refused: it has machines, and no others have come for a while."""
        return bool(self.machines) and now - self.since >= SETTLED_AFTER_S

    def limit(self, held: Amounts) -> dict[str, float]:
        """What jobs may hold together; all of a resource of which no job holds anything yet."""
        return {
            name: min(amount, self.shared.get(name, amount)) if held.get(name) else amount
            for name, amount in self.total.items()
        }

    def held_by(self, asked: Demand) -> Amounts:
        """What a job may come to hold here."""
        return {
            name: max(asked.needs[name], min(amount, self.total.get(name, 0.0))) for name, amount in asked.holds.items()
        }

    def too_small_for(self, asked: Demand) -> str | None:
        """Why the cluster couldn't run a job if it ran nothing else; None where it could."""
        lacks = lacking(asked.needs, self.total)
        if lacks:
            may_grow = any(self.grows_to.get(name) for name in lacks)
            return f"needs {says(asked.needs, lacks)}, the cluster {'grows to' if may_grow else 'has'} {says(lacks)}"
        if any(name in self.grows_to for name in asked.needs) or _places(asked.parts, self.machines):
            return None
        wanted = " and ".join(f"{count} × ({says(each)})" for each, count in asked.parts)
        return f"needs {wanted}, each on one machine, and the cluster's machines have no room for them"


def _places(parts: Sequence[tuple[Amounts, int]], machines: Sequence[Amounts]) -> bool:
    """Whether every part finds room on a machine; the largest are placed first, each on the first that has it."""
    left = [dict(machine) for machine in machines]
    for each, count in sorted(parts, key=lambda part: -sum(part[0].values())):
        placed = 0
        for machine in left:
            while placed < count and not lacking(each, machine):
                placed += 1
                for name, amount in each.items():
                    machine[name] -= amount
        if placed < count:
            return False
    return True


def says(amounts: Amounts, only: Iterable[str] | None = None) -> str:
    """Amounts in words: ``4 CPUs, 2 GPUs of type A100``.

    Args:
        amounts: What to say.
        only: Of which resources; None: all.
    """
    return ", ".join(_says(name, amounts[name]) for name in _told(amounts if only is None else only)) or "nothing"


def says_short(needs: Amounts, free: Amounts) -> str:
    """What is needed and how much of it there is: ``4 GPUs, 2 are free``.

    Args:
        needs: What is needed.
        free: Of what there isn't enough, and how much of it is free.
    """
    return ", and ".join(
        f"{_says(name, needs[name])}, {_number(name, max(0.0, free[name]))} {'is' if free[name] == 1 else 'are'} free"
        for name in _told(free)
    )


def _told(names: Iterable[str]) -> list[str]:
    """GPUs of a type aren't said once more as GPUs."""
    known = list(names)
    typed = any(name.startswith(OF_TYPE) for name in known)
    return [name for name in known if not (typed and name == "GPU")]


def _number(name: str, amount: float) -> str:
    return f"{amount / _GIB:.1f} GiB" if name == "memory" else f"{amount:g}"


def _says(name: str, amount: float) -> str:
    several = "" if amount == 1 else "s"
    if name == "memory":
        noun = "of memory"
    elif name.startswith(OF_TYPE):
        noun = f"GPU{several} of type {name.removeprefix(OF_TYPE)}"
    else:
        noun = f"{name}{several if name in ('CPU', 'GPU') else ''}"
    return f"{_number(name, amount)} {noun}"
