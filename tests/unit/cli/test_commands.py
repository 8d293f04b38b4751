from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from stand_ins.report import report
from stand_ins.shell import Shell
from tiny_models import write_llama

from tandem.cli import follow as following
from tandem.cli.endpoint import Endpoint
from tandem.cli.job_views import PS_FIELDS, moment, watch_jobs
from tandem.cli.key_commands import RoleName
from tandem.cli.origin import here
from tandem.errors import AuthError, InputError, JobFailedError, TandemError
from tandem.orchestrator.roles import Role


def ends(shell: Shell, state: str = "SUCCEEDED", result: dict[str, Any] | None = None, **details: Any) -> None:
    """Whenever somebody waits, the cluster does one more step: start, run, end."""
    stages = iter(["start", "run", "end"])

    def step() -> None:
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

    shell.meanwhile = step


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
    assert list(job) == list(PS_FIELDS)
    assert {"id", "name", "kind", "state", "reason", "created_at", "ended_at", "waits"} <= set(job)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", job["created_at"])
    assert json.loads(shell("ps", "--state", "running", "--json").stdout) == []


def test_ps_and_show_say_why_a_job_waits(shell: Shell, index_file: Path) -> None:
    ids = [shell("submit", str(index_file), f"name=n{number}").stdout.strip() for number in range(3)]
    shell.world.orchestrator.step()
    waits = "needs 2 CPUs, 0 are free; 1st in line"
    assert shell("ps").stdout.splitlines()[-1].split("\t")[-1] == waits
    lines = [line.split("\t") for line in shell("show", ids[-1]).stdout.splitlines()]
    shown = {line[0]: line[1] for line in lines if len(line) == 2}
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


def test_plan_says_what_a_deepspeed_file_contradicts(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text(json.dumps({"train_batch_size": 7}))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    model = str(write_llama(tmp_path / "model"))
    spec = {"kind": "finetune", "name": "f", "model": model, "data": {"train": "rows.jsonl"}, "deepspeed": "zero.json"}
    (tmp_path / "f.yaml").write_text(json.dumps(spec))
    problems = json.loads(shell("plan", "f.yaml", "--json").stdout)["problems"]
    assert any("train_batch_size" in problem for problem in problems), problems


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
    ends(shell, result={"chunks": 3})
    result = following.follow(shell.client(), job_id)
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
    ends(shell, "FAILED", exit_code=1, message="Job entrypoint command failed with exit code 1")
    with pytest.raises(JobFailedError, match=r"FAILED \(job_error\): Job entrypoint command failed"):
        following.follow(shell.client(), job_id)
    result = shell("submit", str(index_file), "--follow")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {job_id}: FAILED (job_error)")
    # A story that is told again tries its failed step again.
    ends(shell, result={"chunks": 1})
    following.submit_and_follow(shell.client(), shell.world.records.get(job_id).spec, "indexing")
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
    assert [line[:3] for line in lines[:2]] == [["arm", "EM", "95 %"], ["rag", "0.75", "0.65 to 0.85"]]
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


def test_ps_finds_jobs_by_kind_project_user_and_time(shell: Shell, index_file: Path) -> None:
    for name, project in (("a", "nlp"), ("b", "default")):
        shell("submit", str(index_file), f"name={name}", f"queue.project={project}")
        shell.world.now += 3600

    def found(*words: str) -> list[str]:
        return [job["name"] for job in json.loads(shell("ps", "--json", *words).stdout)]

    assert found() == ["a", "b"]
    assert found("--project", "nlp") == ["a"]
    assert found("--user", "ada", "--kind", "index") == ["a", "b"]
    assert found("--user", "bob") == found("--kind", "compare") == found("--since", "1d") == []
    assert found("--since", "1970-01-12T14:00:00+00:00") == ["b"]
    assert found("--limit", "1") == ["b"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("30m", "2026-11-30T11:30:00+00:00"),
        ("2d", "2026-11-28T12:00:00+00:00"),
        ("2026-11-29T10:00+02:00", "2026-11-29T08:00:00+00:00"),
    ],
)
def test_times_as_people_write_them(text: str, meant: str) -> None:
    assert moment(text, datetime(2026, 11, 30, 12, tzinfo=UTC)) == meant


@pytest.mark.parametrize("text", ["yesterday", "12", "h", "999999999999w"])
def test_no_time(text: str) -> None:
    with pytest.raises(InputError, match="no time"):
        moment(text, datetime.now(UTC))


def test_watching_shows_what_has_changed(shell: Shell, index_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell("submit", str(index_file))

    def pause(_: float) -> None:
        if shell.world.records.find()[0].state.final:
            raise KeyboardInterrupt
        shell.world.turn()

    def look() -> list[dict[str, Any]]:
        return [{field: job[field] for field in PS_FIELDS} for job in shell.client().jobs()]

    with pytest.raises(KeyboardInterrupt):
        watch_jobs(look, pause=pause)
    states = [line.split("\t")[3] for line in capsys.readouterr().out.splitlines()]
    assert [state for at, state in enumerate(states) if states[at - 1 : at] != [state]] == [
        "QUEUED", "STARTING", "RUNNING", "SUCCEEDED",
    ]  # fmt: skip


def test_show_has_all_that_is_on_record(shell: Shell, index_file: Path) -> None:
    job_id = shell("submit", str(index_file)).stdout.strip()
    for _ in range(3):
        shell.world.turn()
    folder = shell.world.orchestrator.files(job_id).path
    (folder / "environment-1.json").write_text(json.dumps({"ray": "2.60.0", "python": "3.11.9"}))
    lines = shell("show", job_id).stdout.splitlines()
    shown = {cells[0]: cells[1] for line in lines if len(cells := line.split("\t")) == 2}
    assert (shown["user"], shown["needs"], shown["used"]) == ("ada", "CPU 2", "0.00111 CPU hours")
    assert shown["submitted with"].startswith("tandem ")
    changes = [line.split("\t") for line in lines if len(line.split("\t")) == 5]
    assert [(state, lasted) for _, state, _, lasted, _ in changes] == [
        ("QUEUED", "1 s"), ("STARTING", "1 s"), ("RUNNING", "1 s"), ("SUCCEEDED", ""),
    ]  # fmt: skip
    (attempt,) = [line.split("\t") for line in lines if len(line.split("\t")) == 6]
    assert attempt[:4] == ["1", "done", "", "2 s"]
    assert attempt[4] == "python 3.11.9, ray 2.60.0"
    assert attempt[5].endswith(f"#/jobs/{job_id}.1")
    spec = yaml.safe_load("\n".join(lines[lines.index("kind: index") :]))
    assert spec == shell.world.records.get(job_id).spec


def test_the_code_that_a_job_was_submitted_from_is_on_record(shell: Shell, index_file: Path, tmp_path: Path) -> None:
    assert "git_commit" not in here(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet", "."], cwd=tmp_path, check=True)
    subprocess.run([*git, "add", "index.yaml"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "a"], cwd=tmp_path, check=True)
    assert here(tmp_path)["git_changed"] is False
    index_file.write_text(index_file.read_text() + "# changed\n")
    job = shell.client().job(shell("submit", str(index_file)).stdout.strip())
    assert re.fullmatch("[0-9a-f]{40}", job["origin"]["git_commit"])
    assert job["origin"]["git_changed"] is True
    assert "with changes that aren't committed" in shell("show", job["id"]).stdout


def test_keys_are_made_listed_and_taken_back(shell: Shell, monkeypatch: pytest.MonkeyPatch, index_file: Path) -> None:
    made = shell("keys", "add", "eve", "--role", "viewer")
    assert (made.exit_code, len(made.stdout.splitlines())) == (0, 1)
    assert made.stdout.strip() not in (shell.world.cluster.storage / "server-keys.json").read_text()
    assert [line.split("\t")[:2] for line in shell("keys", "list").stdout.splitlines()] == [
        ["ada", "admin"], ["eve", "viewer"],
    ]  # fmt: skip
    assert shell("keys", "add", "eve").exit_code == 2
    with monkeypatch.context() as eve:
        eve.setenv("TANDEM_API_KEY", made.stdout.strip())
        assert shell("ps").exit_code == 0
        refused = shell("submit", str(index_file))
        assert refused.exit_code == 3
        assert "the key of 'eve' is a viewer's: this needs a submitter's" in refused.stderr
        assert shell("keys", "list").exit_code == 3
    assert shell("keys", "revoke", "eve").exit_code == 0
    assert shell("keys", "revoke", "eve").exit_code == 2
    last = shell("keys", "revoke", "ada")
    assert (last.exit_code, "the cluster's own key" in last.stderr) == (2, True)
    assert {role.value for role in RoleName} == {str(role) for role in Role}


def test_submitters_end_their_own_jobs_alone(shell: Shell, monkeypatch: pytest.MonkeyPatch, index_file: Path) -> None:
    job_id = shell("submit", str(index_file)).stdout.strip()
    monkeypatch.setenv("TANDEM_API_KEY", shell("keys", "add", "bob").stdout.strip())
    refused = shell("stop", job_id)
    assert (refused.exit_code, f"{job_id} is a job of ada" in refused.stderr) == (3, True)
    own = shell("submit", str(index_file), "name=own").stdout.strip()
    shell.meanwhile = shell.world.turn
    assert shell("stop", own).stdout == f"{own}: STOPPED\n"


def test_stopping_what_has_ended_is_bad_input(shell: Shell, index_file: Path) -> None:
    job_id = shell("submit", str(index_file)).stdout.strip()
    for _ in range(3):
        shell.world.turn()
    result = shell("stop", job_id)
    assert result.exit_code == 2
    assert f"{job_id} can't be stopped: it has ended already, and is SUCCEEDED" in result.stderr


def test_another_spec_of_the_same_name_is_told(shell: Shell, index_file: Path) -> None:
    first = shell("submit", str(index_file)).stdout.strip()
    second = shell("submit", str(index_file), "chunk.tokens=99")
    assert second.exit_code == 0
    assert f"stands for this job from now on; unfinished, with another spec: {first}" in second.stderr
    assert json.loads(shell("show", "docs", "--json").stdout)["id"] == second.stdout.strip()


def test_waiting_has_its_limit(shell: Shell, index_file: Path) -> None:
    job_id = shell("submit", str(index_file)).stdout.strip()
    result = shell("wait", job_id, "--timeout", "0")
    assert result.exit_code == 1
    assert "still QUEUED after 0 s" in result.stderr
