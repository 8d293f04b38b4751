"""``tandem compare``: a comparison, or the pipeline that leads from documents and questions to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.cli.follow import read_report, submit_and_follow
from tandem.cli.output import note
from tandem.cli.spans import read_span
from tandem.errors import DataError, InputError, InvalidSpecError, NotFoundError, SpecError, UnreachableError

if TYPE_CHECKING:
    from tandem.cli.client import Client
    from tandem.config.cluster import Cluster
    from tandem.data.rows import QaRow
    from tandem.orchestrator.compare_flow import CompareOptions

Report = tuple[dict[str, Any], Path]


def seconds_of(budget: str) -> float:
    """A budget in seconds.

    Raises:
        InputError: No span of time, or none that is left.
    """
    span = read_span(budget)
    if not span:
        raise InputError(f"no span of time: {budget!r}", where="--budget", remedy="for example 90s, 30m or 2h")
    return span.total_seconds()


def quick_note(report: dict[str, Any]) -> str:
    """What a quick answer leaves open."""
    asked, there = report["dataset"]["n"], report["dataset"]["available"]
    few = f"{asked} of {there} questions, so intervals are wide" if asked < there else "all questions"
    trained = any(arm["cost"]["train"] != 0.0 for arm in report["arms"].values())
    untried = "" if trained else "; fine-tuning was not tried"
    return f"a quick answer: {few}{untried}. Without --quick it is a whole one"


def compare_spec(file: Path, overrides: list[str], *, connect: Callable[[], Client]) -> Report:
    """Run a compare spec to its end.

    Returns:
        Its report, and the folder of the report's files.
    """
    from tandem.cli.spec_commands import load_job

    spec = load_job(file, overrides)
    if spec["kind"] != "compare":
        raise SpecError(
            f"a spec of kind {spec['kind']!r} compares nothing", where=str(file), remedy="`tandem submit` runs it"
        )
    return read_report(submit_and_follow(connect(), spec, "comparing"))


def compare_documents(docs: Path, qa: Path, options: CompareOptions, *, connect: Callable[[], Client]) -> Report:
    """Index, train, compare and deploy, from documents and questions alone.

    Args:
        docs: The folder of documents.
        qa: Questions and answers.
        options: What the person chose.
        connect: Makes the client; called once the inputs have been checked.

    Returns:
        The report, and the folder of the report's files.
    """
    from tandem.data.rows import read_qa
    from tandem.orchestrator.compare_flow import plan_compare
    from tandem.orchestrator.preflight import absolute_uri, missing_inputs
    from tandem.specs import CompareSpec

    docs, qa = docs.expanduser().absolute(), qa.expanduser().absolute()
    if not docs.is_dir():
        raise NotFoundError("no such folder of documents", where=str(docs), remedy="check --docs")
    if not qa.is_file():
        raise NotFoundError("no such file of questions", where=str(qa), remedy="check --qa")
    if faults := missing_inputs({"kind": "index", "sources": [{"uri": str(docs)}]}, where="--docs"):
        raise InvalidSpecError(faults)
    client = connect()
    storage = client.cluster.storage
    quarantine = storage / "compare" / "quarantine.jsonl"
    quarantine.unlink(missing_ok=True)  # what an earlier file had in it says nothing of this one
    allowed: float = CompareSpec.model_fields["max_quarantined"].default
    rows = read_qa(qa, quarantine=quarantine, max_quarantined=allowed)
    # Jobs and replicas run in other folders than this one.
    names = ("model", "embedder", "adapter")
    chosen: dict[str, Any] = {name: absolute_uri(uri, Path.cwd()) for name in names if (uri := getattr(options, name))}
    options = replace(options, **chosen)
    plan = plan_compare(
        docs,
        _documents(docs),
        rows,
        options,
        storage=storage,
        workers=training_workers(client.cluster) if options.train else 1,
    )
    faults = missing_inputs(plan.pipeline.steps["docs"].spec.canonical(), where="--docs")
    faults += missing_inputs(plan.serve_config(plan.adapter)["applications"][0]["args"], where="tandem compare")
    if faults:
        raise InvalidSpecError(faults)
    _write_rows(plan.train_path, plan.train)
    _write_rows(plan.eval_path, plan.eval)
    note(f"{len(plan.train)} questions to train on, {len(plan.eval)} held out; {plan.eval_path.parent}")
    result = submit_and_follow(client, plan.pipeline.canonical(), "comparing")
    adapter = f"artifact:{plan.name}-raft@{result['steps']['raft']['job']}" if options.train else plan.adapter
    report, folder = read_report(result)
    if options.deploy:
        from tandem.cli.serving import DEPLOY_TIMEOUT_S, deploy_and_wait

        note("deploying")
        choice = report["verdict"]["choose"]
        config = plan.serve_config(adapter, answers=choice == "raft")
        (app,) = deploy_and_wait(client, config, timeout_s=DEPLOY_TIMEOUT_S)
        arm = "raft" if adapter and choice == "raft" else "rag"
        why = "" if arm == choice else f" (chosen was {choice or 'none'}, which is no arm of an endpoint's)"
        note(f'{app["url"]}/v1 answers as {arm} does{why}; `tandem ask --app {plan.name} "…"`')
    return report, folder


def training_workers(cluster: Cluster) -> int:
    """Two for a short training where each finds a GPU, or a core where the cluster has no GPUs; else one.

    Raises:
        UnreachableError: Ray doesn't say what it has.
    """
    from tandem.config.machine import cores
    from tandem.orchestrator.ray_jobs import HttpRayJobs

    machines = HttpRayJobs(cluster).machines()
    if machines is None:
        raise UnreachableError("Ray doesn't answer", where=cluster.dashboard_url, remedy="`tandem doctor` says more")
    gpus = sum(machine.gpus for machine in machines)
    return max(1, min(2, int(gpus) or cores()))


def _documents(docs: Path) -> list[tuple[str, int, int]]:
    found = [(path, path.stat()) for path in docs.rglob("*") if path.is_file()]
    return [(str(path.relative_to(docs)), seen.st_size, seen.st_mtime_ns) for path, seen in found]


def _write_rows(path: Path, rows: Sequence[QaRow]) -> None:
    from tandem.config.files import write_whole
    from tandem.orchestrator.compare_flow import row_line

    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(row_line(row) for row in rows)
    if path.exists() and path.read_text() == text:
        return  # a newer file would be a reason to train again
    try:
        write_whole(path, text)
    except OSError as error:
        raise DataError(f"can't be written: {error.strerror}", where=str(path)) from None
