from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from stand_ins.shell import Shell
from typer.testing import Result

from tandem.cli import follow as following
from tandem.cli import pipeline as at_keyboard
from tandem.cli.pipeline import print_graph, print_step_logs, spoken, tree
from tandem.errors import JobFailedError


@pytest.fixture
def file(tmp_path: Path, docs: Path) -> str:
    """Two indexes side by side, and one that needs both."""
    for path in (docs / "a.md", docs):
        # Older than the jobs, by the clock of this world.
        os.utime(path, (0, 0))
    (tmp_path / "a.yaml").write_text(f"kind: index\nname: a\nsources: [{docs}]\n")
    (tmp_path / "p.yaml").write_text(
        "kind: pipeline\nname: p\nsteps:\n"
        "  one: {file: a.yaml}\n"
        "  two: {file: a.yaml, spec: {name: b}}\n"
        "  three: {needs: [one, two], file: a.yaml, spec: {name: c}}\n"
    )
    return "p.yaml"


def steps(shell: Shell, pipeline_id: str) -> dict[str, dict[str, Any]]:
    return {step["step"]: step for step in shell.client().job(pipeline_id)["steps"]}


def run(shell: Shell, pipeline_id: str, *, failing: str = "", until: str = "") -> None:
    """Let the cluster do all that it can, or until a step works."""
    for _ in range(20):
        shell.world.now += 10
        shell.world.orchestrator.step()
        for name, step in steps(shell, pipeline_id).items():
            if step["state"] != "STARTING" or name == until:
                continue
            job = shell.world.records.get(step["job"])
            folder = shell.world.cluster.storage / "artifacts" / job.name / job.id
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "manifest.json").write_text("{}")
            good = name != failing
            if good:
                shell.world.write(job, "result.json", {"artifact": str(folder)})
            status = "SUCCEEDED" if good else "FAILED"
            shell.world.ray.set(job.submission_id, status, printed=f"{name} works\nand ends", exit_code=int(not good))


def lines(result: Result) -> list[list[str]]:
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_a_pipeline_is_planned_submitted_shown_and_listed(shell: Shell, file: str) -> None:
    assert shell("validate", file).exit_code == 0
    plan = json.loads(shell("plan", file, "--json").stdout)
    assert [(step["step"], step["does"], step["job"]) for step in plan["steps"]] == [
        ("one", "runs", None), ("two", "runs", None), ("three", "runs", None)
    ]  # fmt: skip
    assert shell.world.records.find() == []
    pipeline_id = shell("submit", file).stdout.strip()
    assert plan["id"] == pipeline_id
    run(shell, pipeline_id, until="three")
    shown = json.loads(shell("show", pipeline_id, "--json").stdout)
    assert {step["step"]: (step["state"], step["needs"]) for step in shown["steps"]} == {
        "one": ("SUCCEEDED", []), "two": ("SUCCEEDED", []), "three": ("STARTING", ["one", "two"])
    }  # fmt: skip
    assert shown["progress"]["done"] == 2
    (row,) = [line for line in lines(shell("show", pipeline_id)) if line[0] == "three"]
    assert row[1:4] == ["STARTING", "one,two", steps(shell, pipeline_id)["three"]["job"]]
    shell("submit", "a.yaml", "name=other")
    listed = [line[1] for line in lines(shell("ps", "--pipeline", "p"))]
    assert listed == ["p", "a", "b", "c"]
    assert "2 of 3 steps done; three STARTING" in shell("ps").stdout
    assert "is a job of kind index, and has no steps" in shell("ps", "--pipeline", "other").stderr


def test_what_is_done_is_not_done_again_and_the_plan_says_so(shell: Shell, file: str) -> None:
    pipeline_id = shell("submit", file).stdout.strip()
    run(shell, pipeline_id, failing="three")
    assert shell("wait", pipeline_id).exit_code == 1
    plan = {step["step"]: step for step in json.loads(shell("plan", file, "--json").stdout)["steps"]}
    one = steps(shell, pipeline_id)["one"]["job"]
    assert (plan["one"]["does"], plan["one"]["job"], plan["three"]["does"]) == ("is done", one, "runs")
    again = shell("submit", file, "--again").stdout.strip()
    assert again == f"{pipeline_id}-2"
    run(shell, again)
    assert shell("wait", again).stdout == f"{again}: SUCCEEDED\n"
    assert [step["reused"] for step in steps(shell, again).values()] == [True, True, False]
    assert [line[:2] for line in lines(shell("submit", file, "--follow"))][1:] == [
        [name, step["job"]] for name, step in steps(shell, again).items()
    ]


def test_logs_of_all_steps_and_of_one(shell: Shell, file: str) -> None:
    pipeline_id = shell("submit", file).stdout.strip()
    run(shell, pipeline_id, until="three")
    assert shell("logs", pipeline_id).stdout.splitlines() == [
        "one | one works", "one | and ends", "two | two works", "two | and ends"
    ]  # fmt: skip
    assert shell("logs", pipeline_id, "two").stdout == "two works\nand ends"
    unknown = shell("logs", pipeline_id, "four")
    assert unknown.exit_code == 2
    assert "has no step 'four' (its steps: one, two, three)" in unknown.stderr
    assert "has no steps" in shell("logs", steps(shell, pipeline_id)["one"]["job"], "two").stderr


def test_following_a_pipeline_tells_each_step_and_its_end(
    shell: Shell, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline_id = shell("submit", file).stdout.strip()
    result = following.follow(shell.client(), pipeline_id, pause=lambda _: run(shell, pipeline_id))
    assert set(result["steps"]) == {"one", "two", "three"}
    said = capsys.readouterr()
    assert said.out == ""
    assert "three | three works" in said.err.splitlines()
    assert f"three: SUCCEEDED ({steps(shell, pipeline_id)['three']['job']})" in said.err.splitlines()
    again = shell("submit", file, "--again").stdout.strip()
    run(shell, again)
    print_step_logs(shell.client(), again, until_end=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert f"one: done before as {steps(shell, again)['one']['job']}" in told.err.splitlines()


def test_a_failed_step_is_named_and_a_stop_stops_the_steps(shell: Shell, file: str) -> None:
    pipeline_id = shell("submit", file).stdout.strip()
    run(shell, pipeline_id, failing="two")
    with pytest.raises(JobFailedError, match=r"FAILED \(step_failed\): step two: FAILED .*; not run: three"):
        following.follow(shell.client(), pipeline_id)
    again = shell("submit", file, "--again").stdout.strip()
    run(shell, again, until="two")
    shell.world.records.request_stop(again)
    run(shell, again, until="two")
    assert shell("stop", again).stdout == f"{again}: STOPPED\n"
    assert [step["state"] for step in steps(shell, again).values()] == ["SUCCEEDED", "STOPPED", "SKIPPED"]


def test_faults_of_inputs_are_told_with_their_step(shell: Shell, file: str) -> None:
    result = shell("submit", file, "steps.two.spec.sources=[nowhere]")
    assert result.exit_code == 2
    assert "step two: sources.0.uri: no such file or folder" in result.stderr
    refused = shell("submit", file, "steps.two.spec.embedder.workers=2000")
    assert "could never start" in refused.stderr
    assert shell.world.records.find() == []


def step(name: str, *needs: str, **fields: Any) -> dict[str, Any]:
    known = {"step": name, "needs": list(needs), "state": "WAITING", "job": None, "reused": False, "message": "",
             "waits": None, "created_at": None, "started_at": None, "ended_at": None}  # fmt: skip
    return {**known, **fields}


def test_the_graph_is_a_tree_in_which_each_step_stands_once_under_the_last_that_it_needs() -> None:
    graph = [step("d", "b", "c"), step("a"), step("b", "a"), step("c", "b"), step("e", "a"), step("x")]
    assert [lead + each["step"] for lead, each in tree(graph)] == [
        "a",
        "├─ b",
        "│  └─ c",
        "│     └─ d",
        "└─ e",
        "x",
    ]


def test_a_person_sees_when_each_step_waited_and_ran(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_keyboard, "is_terminal", lambda: True)
    monkeypatch.setattr("tandem.cli.output.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    day = "2026-01-01T10:"
    graph = [
        step("old", state="SUCCEEDED", job="o-1", reused=True, created_at=f"{day}00:00Z", started_at=f"{day}00:00Z",
             ended_at=f"{day}01:05Z"),
        step("a", "old", state="SUCCEEDED", job="a-1", created_at=f"{day}10:00Z", started_at=f"{day}11:00Z",
             ended_at=f"{day}12:00Z"),
        step("b", "a", state="RUNNING", job="b-1", created_at=f"{day}12:00Z", started_at=f"{day}12:00Z"),
        step("c", "b"),
    ]  # fmt: skip
    at = 1767262440.0  # 10:14:00
    print_graph(graph, now=at)
    text = capsys.readouterr().out
    assert "1 min 5 s" in text
    assert "done before" in text
    assert "······━━━━━━" in text
    assert "2 min 0 s" in text
    assert "needs b" in text


def test_durations_as_people_say_them() -> None:
    assert [spoken(seconds) for seconds in (0.2, 59.6, 185, 7_440)] == ["0 s", "1 min 0 s", "3 min 5 s", "2 h 4 min"]
