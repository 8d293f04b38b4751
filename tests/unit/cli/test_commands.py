from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand_ins.report import report
from stand_ins.shell import Shell

from tandem.cli import follow as following
from tandem.cli.endpoint import Endpoint
from tandem.errors import AuthError, InputError, JobFailedError, TandemError


def ends(shell: Shell, state: str = "SUCCEEDED", result: dict[str, Any] | None = None, **details: Any) -> Any:
    """A pause in which the cluster does one more step: start, run, end."""
    stages = iter(["start", "run", "end"])

    def pause(_: float) -> None:
        stage = next(stages)
        shell.world.orchestrator.step()
        (job,) = [job for job in shell.world.records.find() if not job.state.final]
        if stage == "run":
            shell.world.ray.set(job.submission_id, "RUNNING", printed="working\n")
        if stage == "end":
            if result is not None:
                shell.world.write(job, "result.json", result)
            shell.world.ray.set(job.submission_id, state, printed="over\n", **details)
        shell.world.orchestrator.step()

    return pause


def test_submit_prints_the_id_alone_and_says_what_exists(shell: Shell, index_file: Path) -> None:
    first = shell("submit", str(index_file))
    assert first.exit_code == 0
    assert re.fullmatch(r"docs-[0-9a-f]{8}\n", first.stdout)
    again = shell("submit", str(index_file))
    assert again.stdout == first.stdout
    assert "exists already and is QUEUED" in again.stderr
    assert shell("submit", str(index_file), "--again").stdout == first.stdout.strip() + "-2\n"
    assert shell("submit", str(index_file), "chunk.tokens=99").stdout != first.stdout


def test_ps_is_plain_in_a_pipe_and_json_on_request(shell: Shell, index_file: Path) -> None:
    job_id = shell("submit", str(index_file)).stdout.strip()
    assert shell("ps").stdout.split("\t")[:5] == [job_id, "docs", "index", "QUEUED", "submitted"]
    (job,) = json.loads(shell("ps", "--json").stdout)
    assert list(job) == ["id", "name", "kind", "state", "reason", "created_at", "ended_at", "waits"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", job["created_at"])
    assert json.loads(shell("ps", "--state", "running", "--json").stdout) == []


def test_ps_and_show_say_why_a_job_waits(shell: Shell, index_file: Path) -> None:
    ids = [shell("submit", str(index_file), f"name=n{number}").stdout.strip() for number in range(3)]
    shell.world.orchestrator.step()
    waits = "needs 2 CPUs, 0 are free; 1st in line"
    assert shell("ps").stdout.splitlines()[-1].split("\t")[-1] == waits
    shown = dict(line.split("\t")[:2] for line in shell("show", ids[-1]).stdout.splitlines())
    assert (shown["waits"], shown["project"], shown["priority"]) == (waits, "default", "0")
    assert json.loads(shell("show", ids[-1], "--json").stdout)["waits"] == waits


def test_a_job_that_could_never_start_is_bad_input(shell: Shell, index_file: Path) -> None:
    refused = shell("submit", str(index_file), "embedder.workers=9")
    assert refused.exit_code == 2
    assert "could never start, however empty the cluster is: needs 10 CPUs, the cluster has 4 CPUs" in refused.stderr
    assert shell.world.records.find() == []


def test_plan_says_what_would_run_and_starts_nothing(shell: Shell, index_file: Path) -> None:
    plan = json.loads(shell("plan", str(index_file), "--json").stdout)
    assert shell.world.records.find() == []
    assert (plan["cpus"], plan["needs"]) == (2, "2 CPUs")
    assert plan["state now"] == "new"
    assert plan["id"] == shell("submit", str(index_file)).stdout.strip()
    assert "QUEUED" in json.loads(shell("plan", str(index_file), "--json").stdout)["state now"]


def test_stop_of_a_waiting_job(shell: Shell, index_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = shell("submit", str(index_file)).stdout.strip()
    shell.world.records.request_stop(job_id)
    shell.world.orchestrator.step()
    assert shell("stop", job_id).stdout == f"{job_id}: STOPPED\n"
    result = shell("wait", job_id)
    assert result.exit_code == 1
    assert "STOPPED (stopped)" in result.stderr
    shown = json.loads(shell("show", job_id, "--json").stdout)
    assert [event["state"] for event in shown["events"]] == ["QUEUED", "STOPPED"]


def test_following_a_job_prints_its_log_and_returns_its_result(
    shell: Shell, index_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = shell("submit", str(index_file)).stdout.strip()
    result = following.follow(shell.client(), job_id, pause=ends(shell, result={"chunks": 3}))
    assert result == {"chunks": 3}
    captured = capsys.readouterr()
    # stdout is for what the job leads to: `tandem compare --json` follows three of them.
    assert captured.err.endswith("working\nover\n")
    assert captured.out == ""
    assert shell("logs", job_id).stdout == "working\nover\n"
    assert shell("wait", job_id).exit_code == 0
    # Whoever submits it again gets what is there.
    done = following.submit_and_follow(shell.client(), shell.world.records.get(job_id).spec, "indexing")
    assert done == {"chunks": 3}


def test_following_a_job_that_fails_says_why(shell: Shell, index_file: Path) -> None:
    job_id = shell("submit", str(index_file)).stdout.strip()
    pause = ends(shell, "FAILED", exit_code=1, message="Job entrypoint command failed with exit code 1")
    with pytest.raises(JobFailedError, match=r"FAILED \(job_error\): Job entrypoint command failed"):
        following.follow(shell.client(), job_id, pause=pause)
    result = shell("submit", str(index_file), "--follow")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {job_id}: FAILED (job_error)")
    # A story that is told again tries its failed step again.
    following.submit_and_follow(
        shell.client(), shell.world.records.get(job_id).spec, "indexing", pause=ends(shell, result={"chunks": 1})
    )
    assert [job.id for job in shell.world.records.find()] == [job_id, f"{job_id}-2"]


def test_whoever_leaves_is_told_how_to_come_back(
    shell: Shell, index_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "print_log", interrupt)
    result = shell("submit", str(index_file), "--follow")
    assert result.exit_code == 130
    job_id = result.stdout.strip()
    assert f"`tandem logs {job_id} -f`" in result.stderr
    assert shell.world.state(shell.world.records.get(job_id)) == "QUEUED"
    # With --json stdout is the result's: the id goes where a person sees it.
    monkeypatch.setattr(following, "wait", interrupt)
    result = shell("submit", str(index_file), "--follow", "--json")
    assert (result.exit_code, result.stdout) == (130, "")
    assert job_id in result.stderr.splitlines()
    assert f"`tandem logs {job_id} -f`" in result.stderr


def test_schema_is_json(shell: Shell) -> None:
    assert json.loads(shell("schema", "rag").stdout)["properties"]["retriever"]


def test_status(shell: Shell, index_file: Path) -> None:
    shell("submit", str(index_file))
    shell.world.orchestrator.step()
    status = json.loads(shell("status", "--json").stdout)
    assert (status["ray"], status["jobs"], status["apps"]) == ("up", {"STARTING": 1}, [])
    shell.world.ray.down = True
    shell.world.orchestrator.step()
    result = shell("status")
    assert result.exit_code == 3
    assert "the Ray head doesn't answer" in result.stderr


SERVE_CONFIG = """
applications:
  - name: NAME
    route_prefix: /NAME
    import_path: tandem.serving.app:build
    args: {kind: rag, name: NAME, model: "hf:a/b", retriever: {collection: docs}}
"""


def test_deploying_beside_another_application(shell: Shell, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(SERVE_CONFIG.replace("NAME", name))
        result = shell("deploy", f"{name}.yaml", "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)[0]["url"] == f"http://127.0.0.1:3/{name}"
    assert sorted(shell.serve.apps) == ["a", "b"]
    assert "several applications are deployed" in shell("ask", "why?").stderr
    assert shell("undeploy", "a").exit_code == 0
    assert list(shell.serve.apps) == ["b"]


def test_a_version_that_cannot_start_ends_the_wait(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVE_CONFIG.replace("NAME", "a"))
    shell.serve.message = "Deploying app 'a' failed with exception: no weights"
    result = shell("deploy", "a.yaml")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: a: the application didn't start: Deploying app 'a' failed")


def answering(handler: Any) -> Endpoint:
    return Endpoint("http://e", "key", transport=httpx.MockTransport(handler))


def test_the_endpoint_plain_and_streamed() -> None:
    citation = {"id": "1", "source": "a.md", "text": "port 42", "score": 0.5}

    def respond(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer key"
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "rag"}]})
        body = json.loads(request.content)
        if not body.get("stream"):
            return httpx.Response(200, json={"choices": [{"message": {"content": "42"}}], "citations": [citation]})
        events = [{"choices": [{"delta": {"content": text}}]} for text in ("4", "2")]
        events.append({"choices": [{"delta": {}}], "citations": [citation]})
        lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return httpx.Response(200, text=lines + "data: [DONE]\n\n")

    endpoint = answering(respond)
    assert endpoint.models() == ["rag"]
    assert endpoint.ask("port?", "rag")["citations"] == [citation]
    said: list[str] = []
    assert endpoint.stream("port?", "rag", say=said.append) == [citation]
    assert "".join(said) == "42"


@pytest.mark.parametrize(("status", "kind"), [(401, AuthError), (404, InputError), (503, TandemError)])
def test_what_the_endpoint_refuses(status: int, kind: type[TandemError]) -> None:
    endpoint = answering(lambda _: httpx.Response(status, json={"error": {"message": "no"}}))
    with pytest.raises(kind, match="no"):
        endpoint.ask("q", "m")
    with pytest.raises(kind, match="no"):
        endpoint.stream("q", "m", say=print)


def test_a_report_is_printed_with_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    following.print_report(report(None, base=0.25, rag=0.75))
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines[:2]] == [["arm", "EM", "95 %"], ["rag", "0.75", "0.00 to 1.00"]]
    assert lines[3][0].startswith("verdict: No clear winner: 4 questions can't tell rag and base apart")
    assert "may be chance" in lines[4][0]


def run(*arguments: str) -> tuple[float, str]:
    """Processor seconds, which other tests on the same cores change little, and what was printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_nothing_heavy_is_imported_at_start_nor_by_validate(index_file: Path) -> None:
    heavy = {
        "torch",
        "ray",
        "deepspeed",
        "mlflow",
        "transformers",
        "fastapi",
        "sqlalchemy",
        "pandas",
        "pyarrow",
        "numpy",
    }
    code = (
        "import sys; from typer.testing import CliRunner; from tandem.cli.main import app\n"
        "assert CliRunner().invoke(app, sys.argv[1:]).exit_code == 0\n"
        "print(*sys.modules)"
    )
    for arguments in (["--help"], ["validate", str(index_file)]):
        assert not heavy & set(run("-c", code, *arguments)[1].split())


def test_help_and_validate_are_fast(index_file: Path) -> None:
    # What the contract allows on a machine at rest; the best of five, since this one may not be.
    assert min(run("-m", "tandem.cli.main", "--help")[0] for _ in range(5)) < 0.3
    files = [str(index_file)] * 10
    assert min(run("-m", "tandem.cli.main", "validate", *files)[0] for _ in range(3)) < 1.0


def test_every_command_explains_itself(shell: Shell) -> None:
    commands = re.findall(r"^  (\w+)  ", shell("--help").stdout, flags=re.MULTILINE)
    assert {"up", "down", "submit", "ps", "compare", "doctor", "demo"} <= set(commands)
    for command in commands:
        result = shell(command, "--help")
        assert result.exit_code == 0
        assert "Usage" in result.stdout
