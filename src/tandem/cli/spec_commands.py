"""``tandem validate``, ``plan`` and ``schema``: what a file says, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tandem.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tandem.errors import SpecError
    from tandem.orchestrator.ray_jobs import Machine
    from tandem.specs import Spec

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Fields to set, e.g. schedule.epochs=2.")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (validate, plan, schema):
        app.command()(command)


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Spec files of any kind.")], json: Json = False
) -> None:
    """Check spec files, and show every error at once."""
    from tandem.specs.loading import validate_file

    faults = {str(path): validate_file(path) or _deepspeed_faults(path) for path in files}
    if json:
        fields = ("what", "where", "remedy")
        print_json(
            [
                {
                    "file": name,
                    "ok": not errors,
                    "errors": [{key: getattr(error, key) for key in fields} for error in errors],
                }
                for name, errors in faults.items()
            ]
        )
    else:
        print_table(["file", "result"], [[name, "ok"] for name, errors in faults.items() if not errors])
    if found := [error for errors in faults.values() for error in errors]:
        from tandem.errors import InvalidSpecError

        raise InvalidSpecError(found)


def plan(
    file: Annotated[Path, typer.Argument(help="A spec file.")], overrides: Overrides = None, json: Json = False
) -> None:
    """Show what a file would run, before it runs. Nothing is started."""
    from tandem.specs.loading import is_serve_config

    facts = (
        _serve_plan(file, overrides or [])
        if is_serve_config(file)
        else _spec_plan(load_absolute(file, overrides or []))
    )
    if json:
        print_json(facts)
        return
    shown = [[key, _text(value)] for key, value in facts.items() if key not in ("spec", "steps")]
    print_table(["", ""], shown)
    if "steps" in facts:
        from tandem.cli.pipeline import print_plan

        print_plan(facts["steps"])


def schema(
    kind: Annotated[str, typer.Argument(help="index, finetune, compare, pipeline, rag, cluster, or report.")],
) -> None:
    """Print the JSON Schema of a kind of spec, or of a comparison's report.json."""
    from tandem.errors import SpecError
    from tandem.specs import KINDS

    if kind == "report":
        from tandem.evaluation.schema import Report

        print_json(Report.model_json_schema(by_alias=True))
        return
    if kind not in KINDS:
        raise SpecError(f"no spec is of kind {kind!r}", remedy=f"kinds: {', '.join(sorted([*KINDS, 'report']))}")
    print_json(KINDS[kind].model_json_schema())


def load_absolute(file: Path, overrides: list[str]) -> Spec:
    """A spec whose paths hold in every folder: its job runs in another than this command."""
    from tandem.orchestrator.preflight import absolute
    from tandem.specs.loading import load_spec

    spec = load_spec(file, overrides)
    return type(spec).model_validate(absolute(spec.canonical(), Path.cwd()))


def load_job(file: Path, overrides: list[str]) -> dict[str, Any]:
    """The canonical spec of a job whose inputs are there.

    Raises:
        InvalidSpecError: Everything that is wrong with the file or its inputs.
        SpecError: It isn't the spec of a job.
    """
    from tandem.errors import InvalidSpecError, SpecError
    from tandem.orchestrator.preflight import missing_inputs
    from tandem.specs import JOB_KINDS
    from tandem.specs.loading import is_serve_config

    remedy = "`tandem deploy` takes Serve configs, `tandem up` cluster files"
    if is_serve_config(file):
        raise SpecError("this is a Serve config and no job", where=str(file), remedy=remedy)
    spec = load_absolute(file, overrides).canonical()
    if spec["kind"] not in JOB_KINDS:
        raise SpecError(f"a spec of kind {spec['kind']!r} is no job", where=str(file), remedy=remedy)
    if faults := missing_inputs(spec, where=str(file)) or _deepspeed_faults(file, overrides):
        raise InvalidSpecError(faults)
    return spec


def _deepspeed_faults(file: Path, overrides: Sequence[str] = ()) -> list[SpecError]:
    """What the DeepSpeed JSON of a sound finetune spec contradicts; nothing for other files."""
    from tandem.specs.loading import is_serve_config, load_spec

    return [] if is_serve_config(file) else _contradictions(load_spec(file, overrides))


def _contradictions(spec: Spec) -> list[SpecError]:
    from tandem.specs import FinetuneSpec, PipelineSpec
    from tandem.training.methods.deepspeed import faults_of

    found = [step.spec for step in spec.steps.values()] if isinstance(spec, PipelineSpec) else [spec]
    return [fault for each in found if isinstance(each, FinetuneSpec) for fault in faults_of(each)]


def _spec_plan(spec: Spec) -> dict[str, Any]:
    from tandem.orchestrator.preflight import inputs, missing_inputs
    from tandem.specs import JOB_KINDS
    from tandem.specs.pipeline import REFERENCE

    data = spec.canonical()
    here = data
    if data["kind"] in JOB_KINDS:
        from tandem.cli.submission import gather

        data = gather(data).spec
    facts: dict[str, Any] = {"kind": data["kind"], "name": data["name"]}
    problems: list[str] = []
    if data["kind"] in JOB_KINDS:
        from tandem.orchestrator.identity import job_id

        facts["id"] = job_id(data["kind"], data["name"], data)
        facts["state now"] = _state_now(facts["id"])
        facts |= _steps(data) if data["kind"] == "pipeline" else _needs(spec, problems)
    # What another step of a pipeline makes is no input of the pipeline.
    facts["inputs"] = list(dict.fromkeys(value for _, value in inputs(data) if not REFERENCE.search(value)))
    faults = missing_inputs(here, where=data["kind"]) or _contradictions(spec)
    facts["problems"] = [*(str(fault) for fault in faults), *problems]
    facts["spec"] = data
    return facts


def _state_now(identifier: str) -> str:
    from tandem.cli.client import Client
    from tandem.errors import NotFoundError, UnreachableError

    try:
        return f"{Client.connect().job(identifier)['state']}: submitting it again gives that job"
    except NotFoundError:
        return "new"
    except UnreachableError as error:
        return f"unknown: {error.what}"


def _steps(data: dict[str, Any]) -> dict[str, Any]:
    """What would become of each step of a pipeline; where no server answers, what it consists of."""
    from tandem.cli.client import Client
    from tandem.errors import UnreachableError

    try:
        return {"steps": Client.connect().plan(data)}
    except UnreachableError:
        return {
            "steps": [
                {"step": name, "kind": step["spec"]["kind"], "needs": step["needs"], "does": "unknown", "job": None}
                for name, step in data["steps"].items()
            ]
        }


def _needs(spec: Spec, problems: list[str]) -> dict[str, Any]:
    """What a job needs of the cluster, and what it makes."""
    from tandem.orchestrator.identity import job_id
    from tandem.orchestrator.resources import demand, says

    data = spec.canonical()
    if data["kind"] == "promote":
        return {"needs": "nothing: the server does it"}
    machines = _machines()
    needs = demand(data, gpus=bool(machines and any(machine.gpus for machine in machines))).needs
    facts: dict[str, Any] = {"cpus": needs["CPU"], "needs": says(needs)}
    facts["makes"] = f"artifact:{data['name']}@{job_id(data['kind'], data['name'], data)}"
    if data["kind"] == "finetune":
        facts |= _memory(spec, machines)
        problems += _length(spec)
    return facts


def _machines() -> list[Machine] | None:
    from tandem.cli.client import Client
    from tandem.errors import UnreachableError
    from tandem.orchestrator.ray_jobs import HttpRayJobs

    try:
        return HttpRayJobs(Client.connect().cluster).machines()
    except UnreachableError:
        return None


def _memory(spec: Spec, machines: list[Machine] | None) -> dict[str, str]:
    from tandem.cli.memory import plan_memory
    from tandem.config.cluster import storage_path
    from tandem.specs import FinetuneSpec

    assert isinstance(spec, FinetuneSpec)
    return plan_memory(spec, storage_path(), machines)


def _length(spec: Spec) -> list[str]:
    from tandem.cli.memory import length_problem
    from tandem.config.cluster import storage_path
    from tandem.specs import FinetuneSpec

    assert isinstance(spec, FinetuneSpec)
    problem = length_problem(spec, storage_path())
    return [] if problem is None else [problem]


def _serve_plan(file: Path, overrides: list[str]) -> dict[str, Any]:
    from tandem.specs.loading import load_serve_config

    config = load_serve_config(file, overrides)
    applications = {
        str(application["name"]): str(application.get("route_prefix", "/"))
        for application in config.config["applications"]
    }
    return {
        "kind": "serve config",
        "applications": applications,
        "models": {
            name: [spec.model, *(adapter.uri for adapter in spec.adapters)] for name, spec in config.specs.items()
        },
        "collections": {name: spec.retriever.collection for name, spec in config.specs.items()},
        "spec": config.config,
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(item)}" for key, item in value.items())
    return str(value)
