"""Every kind of bad input: one clear line, the exit status of the contract, nothing half written."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from stand_ins.shell import Shell
from typer.testing import CliRunner

from tandem.cli.client import Client
from tandem.cli.main import app
from tandem.config.cluster import STORAGE_VARIABLE


def one_line(output: str) -> str:
    lines = output.splitlines()
    assert len(lines) == 1, output
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: index\nname: docs\nsources: [DOCS]\nchunks: {tokens: 9}\n", "x.yaml:4: chunks: unknown key 'chunks'"),
        (
            "kind: index\nname: docs\nsources: [DOCS]\nchunk: {tokens: many}\n",
            "x.yaml:4: chunk.tokens: input should be",
        ),
        ("kind: index\nname: docs\n", "x.yaml:1: sources: is required and missing"),
        ("kind: nope\n", "x.yaml:1: kind: no spec is of kind 'nope'"),
        ("kind: index\nname: docs\nsources: [nowhere]\n", "no such file or folder"),
        ("kind: index\nname: docs\nsources: [empty]\n", "an empty folder"),
        ("kind: finetune\nname: t\nmodel: empty\ndata: {train: rows.jsonl}\n", "a model path without weights"),
        ("kind: finetune\nname: t\nmodel: hf:a/b\ndata: {train: none.jsonl}\n", "no such file or folder"),
        ("kind: cluster\n", "a spec of kind 'cluster' is no job"),
        ("kind: [\n", "not YAML"),
    ],
)
def test_a_bad_spec_is_refused_before_anything_is_queued(
    shell: Shell, tmp_path: Path, docs: Path, text: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "x.yaml").write_text(text.replace("DOCS", str(docs)))
    result = shell("submit", "x.yaml")
    assert result.exit_code == 2
    assert said in one_line(result.stderr)
    assert result.stdout == ""
    assert shell.world.records.find() == []


def test_every_error_of_every_file_is_shown_at_once(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: index\nname: Bad Name\nsources: []\ntypo: 1\n")
    (tmp_path / "b.yaml").write_text("kind: cluster\nports: {gcs: 99999}\n")
    result = shell("validate", "a.yaml", "b.yaml", "missing.yaml")
    assert result.exit_code == 2
    places = [line.split(": ")[1] for line in result.stderr.splitlines()]
    assert places == ["a.yaml:2", "a.yaml:3", "a.yaml:4", "b.yaml:2", "missing.yaml"]


def test_validate_prints_json(shell: Shell, tmp_path: Path, index_file: Path) -> None:
    (tmp_path / "b.yaml").write_text("kind: cluster\nnope: 1\n")
    result = shell("validate", str(index_file), "b.yaml", "--json")
    good, bad = json.loads(result.stdout)
    assert (good["ok"], bad["ok"]) == (True, False)
    assert bad["errors"][0]["where"] == "b.yaml:2: nope"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit"], "Missing argument 'file'"),
        (["nope"], "No such command 'nope'"),
        (["ps", "--nope"], "No such option"),
        (["schema", "nope"], "no spec is of kind 'nope'"),
        (["submit", "index.yaml", "chunk.tokens"], "not key=value"),
        (["show", "nope"], "no job 'nope'"),
        (["logs", "nope"], "no job 'nope'"),
        (["stop", "nope"], "no job 'nope'"),
        (["undeploy", "nope"], "no application 'nope'"),
        (["ask", "why?"], "nothing is deployed"),
        (["deploy", "index.yaml"], "no applications"),
        (["up", "index.yaml"], "is no cluster"),
        (["compare"], "nothing to compare"),
        (["compare", "index.yaml"], "compares nothing"),
        (["compare", "--docs", "nowhere", "--qa", "index.yaml"], "no such folder of documents"),
        (["compare", "--docs", "docs", "--qa", "nowhere"], "no such file of questions"),
    ],
)
def test_bad_arguments(shell: Shell, index_file: Path, arguments: list[str], said: str) -> None:
    result = shell(*arguments)
    assert result.exit_code == 2
    assert said in one_line(result.stderr)


def test_questions_with_broken_rows_name_the_quarantine_and_leave_no_split(
    shell: Shell, tmp_path: Path, docs: Path
) -> None:
    rows = [json.dumps({"question": f"q{n}", "answers": "a"}) for n in range(20)] + ["{broken", '{"question": "x"}']
    (tmp_path / "qa.jsonl").write_text("\n".join(rows))
    result = shell("compare", "--docs", str(docs), "--qa", "qa.jsonl")
    assert result.exit_code == 2
    line = one_line(result.stderr)
    assert "2 of 22" in line
    quarantine = shell.world.cluster.storage / "compare" / "quarantine.jsonl"
    assert str(quarantine) in line
    assert [json.loads(row)["line"] for row in quarantine.read_text().splitlines()] == [21, 22]
    assert not list(shell.world.cluster.storage.rglob("*train.jsonl"))
    assert shell.world.records.find() == []


def test_an_empty_folder_of_documents(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "qa.jsonl").write_text("\n".join(json.dumps({"question": f"q{n}", "answers": "a"}) for n in range(9)))
    result = shell("compare", "--docs", "none", "--qa", "qa.jsonl")
    assert result.exit_code == 2
    assert "an empty folder" in one_line(result.stderr)
    assert shell.world.records.find() == []


def test_a_port_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, str(tmp_path / "store"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file = tmp_path / "c.yaml"
        file.write_text(f"kind: cluster\nports: {{gcs: 0, dashboard: 0, server: {port}, endpoint: 0}}\n")
        result = CliRunner().invoke(app, ["up", str(file)])
    assert result.exit_code == 2
    assert f"in use: port {port} (server)" in one_line(result.stderr)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("command", [["ps"], ["status"], ["show", "x"], ["undeploy", "x"], ["ask", "x"], ["wait", "x"]])
def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, str(tmp_path / "none"))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 3
    assert "run `tandem up`" in one_line(result.stderr)


def test_a_server_that_does_not_answer(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its port is 2 on loopback, where nobody listens.
    monkeypatch.setattr(Client, "connect", classmethod(lambda cls: cls(shell.world.cluster)))
    result = shell("ps")
    assert result.exit_code == 3
    assert "the Tandem server doesn't answer" in one_line(result.stderr)


def test_a_key_that_does_not_match(shell: Shell) -> None:
    shell.world.cluster.api_key_file.write_text("another-key\n")
    result = shell("ps")
    assert result.exit_code == 3
    assert "the server refuses this API key" in one_line(result.stderr)


def test_a_traceback_only_with_debug(shell: Shell) -> None:
    assert "Traceback" not in shell("show", "nope").stderr
    result = shell("--debug", "show", "nope")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_a_spec_that_is_changed_between_attempts_changes_nothing(shell: Shell, index_file: Path) -> None:
    job_id = shell("submit", str(index_file)).stdout.strip()
    world = shell.world
    world.orchestrator.step()
    submitted = world.records.get(job_id).spec
    kept = world.orchestrator.files(job_id).path / "spec.json"
    world.ray.set(f"{job_id}.1", "FAILED", exit_code=-9)
    world.orchestrator.step()
    assert world.state(world.records.get(job_id)) == "RETRYING"
    # In the user's file, which makes another job, and in the job's folder, which nobody is meant to touch.
    index_file.write_text(index_file.read_text() + "chunk: {tokens: 99}\n")
    kept.write_text("{}")
    other = shell("submit", str(index_file))
    assert other.stdout.strip() != job_id
    assert f"unfinished, with another spec: {job_id}" in other.stderr
    world.now += 600
    world.orchestrator.step()
    assert world.ray.submit_calls[:2] == [f"{job_id}.1", f"{job_id}.2"]
    assert json.loads(kept.read_text()) == submitted == world.records.get(job_id).spec


@pytest.mark.parametrize("command", [["show"], ["logs"], ["logs", "-f"], ["stop"], ["wait"], ["report"]])
@pytest.mark.parametrize("job_id", ["nope", "no such", "a/b", "ä", "x" * 200])
def test_a_job_that_nobody_knows(shell: Shell, command: list[str], job_id: str) -> None:
    result = shell(command[0], job_id, *command[1:])
    assert result.exit_code == 2
    one_line(result.stderr)
