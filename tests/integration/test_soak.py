"""The endpoint under load while its parts are killed, deployed anew and cut off from the store.

In a minute here; `TANDEM_SOAK_S=600 pytest tests/integration/test_soak.py` is the long one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from stand_ins.documents import DOCUMENTS, TENANTS, eventually
from stand_ins.replicas import replicas

from tandem.config.cluster import Cluster
from tandem.orchestrator.processes import free_port
from tandem.retrieval.actor import NAME as STORE

SOAK_S = float(os.environ.get("TANDEM_SOAK_S", "40"))
LONG = SOAK_S >= 300
KILL_EVERY_S = 30 if LONG else 10
STORE_STOPPED_S = 20 if LONG else 5
CLIENTS = 6
PAUSE_S = 0.0 if LONG else 0.15  # of a client: the short one runs beside other tests
TIMEOUT_S = 10  # the spec's: what hangs is answered 504 after it
# 500 is the proxy's for a request whose ingress was killed, whatever Ray's HAProxy would call it.
PROPER = frozenset({200, 429, 500, 503, 504})
APP = "soak"


@dataclass
class Seen:
    """What the clients got."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    odd: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Something happened, now."""
        self.events.append(f"{time.monotonic() - self.began:.1f} {what}")

    def check(self, key: str, citations: list[dict[str, Any]]) -> None:
        """Whether an answer's passages are the key's tenant's."""
        tenant = TENANTS[key]
        for citation in citations:
            if tenant not in ("*", DOCUMENTS[citation["source"]]["tenant"]):
                self.foreign.append(f"{key}: {citation['source']}")


def ask_until(stop: threading.Event, url: str, seed: int, seen: Seen) -> None:
    """One client: plain and streamed, as different tenants, one request after the other."""
    chance = random.Random(seed)
    while not stop.is_set():
        key, stream = chance.choice(list(TENANTS)), chance.random() < 0.5
        body = {
            "model": chance.choice(["soak", "base", "tuned"]),
            "messages": [{"role": "user", "content": f"What does the fox do at {chance.randrange(1000)}?"}],
            "max_tokens": 4,
            "stream": stream,
        }
        sent = time.monotonic() - seen.began
        # A connection for each: a person's, not a pool's.
        try:
            with (
                httpx.Client(timeout=4 * TIMEOUT_S, trust_env=False) as client,
                client.stream(
                    "POST", f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
                ) as response,
            ):
                seen.statuses[response.status_code] += 1
                if response.status_code != 200:
                    seen.note(f"{response.status_code}, sent at {sent:.1f}")
                try:
                    text = response.read().decode()
                except httpx.TransportError:
                    seen.cut.append(time.monotonic())
                    continue
        except httpx.TransportError as error:
            seen.lost.append(f"{type(error).__name__} {error}")
            seen.note(f"{seen.lost[-1]}, sent at {sent:.1f}")
            continue
        if response.status_code == 200:
            judge(seen, key, text, stream=stream)
        stop.wait(PAUSE_S)


def judge(seen: Seen, key: str, text: str, *, stream: bool) -> None:
    """An answer with status 200 is whole, or says in its stream that it broke."""
    if not stream:
        seen.check(key, json.loads(text)["citations"])
        return
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    if not events or events[-1] != "[DONE]":
        seen.odd.append(text[-200:])
        return
    for event in map(json.loads, events[:-1]):
        seen.check(key, event.get("citations") or [])


def store_process(cluster: Cluster) -> psutil.Process:
    from ray.util.state import list_actors

    (actor,) = list_actors(cluster.dashboard_url, filters=[("name", "=", STORE), ("state", "=", "ALIVE")])
    return psutil.Process(int(actor.pid))


def memory(cluster: Cluster) -> dict[str, int]:
    """Resident bytes of the largest process of each part: the store, Serve's own, and the replicas."""
    from ray.util.state import list_actors

    largest: dict[str, int] = {}
    for actor in list_actors(cluster.dashboard_url, filters=[("state", "=", "ALIVE")], limit=1000):
        kind = str(actor.class_name)
        part = kind.split(":")[2] if kind.startswith(f"ServeReplica:{APP}:") else kind
        if actor.name == STORE or "Serve" in kind or "Proxy" in kind:
            with suppress(psutil.NoSuchProcess):  # killed since
                largest[part] = max(largest.get(part, 0), psutil.Process(int(actor.pid)).memory_info().rss)
    return largest


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def deploy(cluster: Cluster, models: dict[str, Path], *, prompt: str) -> str:
    from ray import serve

    from tandem.serving.app import build

    serve.start(http_options={"host": "127.0.0.1", "port": free_port()})
    two = {"min_replicas": 2, "max_replicas": 2, "max_surge_percent": 100}
    args: dict[str, Any] = {
        "kind": "rag",
        "name": "soak",
        "model": str(models["base"]),
        "adapters": [{"name": "tuned", "uri": str(models["tuned"])}],
        "retriever": {"collection": "serving-docs", "top_k": 3},
        "prompt": {"system": prompt},
        "engine": {"name": "transformers", "max_model_len": 512},
        "cpus_per_replica": 0.5,
        "autoscaling": {"ingress": two, "retriever": two, "llm": two},
        "limits": {"timeout_s": TIMEOUT_S},
    }
    serve.run(build(args), name=APP, route_prefix="/soak")
    return f"http://127.0.0.1:{serve.context._get_global_client().http_config.port}/soak"


@pytest.mark.timeout(SOAK_S + 400)
def test_whatever_breaks_every_request_has_a_proper_status(indexed: Cluster, endpoint_models: dict[str, Path]) -> None:
    from ray import serve

    url = deploy(indexed, endpoint_models, prompt="Be brief.")
    seen, stop = Seen(), threading.Event()
    chance = random.Random(0)
    killed: list[tuple[str, float]] = []
    sizes: list[dict[str, int]] = []
    began = time.monotonic()

    def at(share: float) -> float:
        return began + share * SOAK_S

    with ThreadPoolExecutor(CLIENTS + 1) as clients:
        asking = [clients.submit(ask_until, stop, url, seed, seen) for seed in range(CLIENTS)]
        try:
            next_kill, redeploying, cut_off = began + KILL_EVERY_S, None, False
            while (now := time.monotonic()) < at(1) or len(killed) < 3:
                if now >= next_kill:
                    part = ("LLM", "Retriever", "Ingress")[len(killed) % 3]
                    if running := replicas(APP).get(part):
                        os.kill(chance.choice(running), signal.SIGKILL)
                        killed.append((part, time.monotonic()))
                        seen.note(f"killed {part}")
                    next_kill += KILL_EVERY_S
                elif now >= at(0.4) and redeploying is None:
                    seen.note("redeploy")
                    redeploying = clients.submit(deploy, indexed, endpoint_models, prompt="Be very brief.")
                    redeploying.add_done_callback(lambda _: seen.note("redeployed"))
                elif now >= at(0.75) and not cut_off:
                    with stopped(store_process(indexed)):
                        seen.note("store stopped")
                        stop.wait(STORE_STOPPED_S)
                    seen.note("store goes on")
                    cut_off = True
                else:
                    sizes.append(memory(indexed))
                    stop.wait(1)
            assert redeploying is not None
            redeploying.result()
            assert eventually(
                lambda: (
                    {part: len(pids) for part, pids in replicas(APP).items()}
                    == {"Ingress": 2, "Retriever": 2, "LLM": 2}
                ),
                within_s=90,
            ), replicas(APP)
        finally:
            stop.set()
        for future in asking:
            future.result()
    told = f"{dict(seen.statuses)}, cut {len(seen.cut)}, events: {'; '.join(seen.events)}"
    print(told)
    assert cut_off, told
    assert {part for part, _ in killed} == {"LLM", "Retriever", "Ingress"}, told
    assert not seen.foreign
    assert not seen.odd
    assert not seen.lost, f"{told}: {Counter(seen.lost)}"
    assert set(seen.statuses) <= PROPER, told
    # A stream whose ingress is killed ends with its connection; nothing else may cut one.
    ingress = [when for part, when in killed if part == "Ingress"]
    assert all(any(0 <= cut - when < 5 for when in ingress) for cut in seen.cut), told
    assert seen.statuses[200] > 0.7 * sum(seen.statuses.values()), told
    third = len(sizes) // 3
    middle, last = (
        {part: max(size.get(part, 0) for size in samples) for part in sizes[-1]}
        for samples in (sizes[third : 2 * third], sizes[-third:])
    )
    print({part: (round(middle[part] / 1e6), round(last[part] / 1e6)) for part in last})
    assert {"Ingress", "Retriever", "LLM", "ServeController", "HAProxyManager"} <= set(last)
    assert all(last[part] < 1.1 * middle[part] + 20e6 for part in last), (middle, last)
    # Everything answers again.
    for seed in range(8):
        body = {"model": "soak", "messages": [{"role": "user", "content": f"fox {seed}?"}], "max_tokens": 2}
        answer = httpx.post(
            f"{url}/v1/chat/completions", json=body, headers={"Authorization": "Bearer key-of-acme"}, timeout=30
        )
        assert answer.status_code == 200
    serve.delete(APP)
