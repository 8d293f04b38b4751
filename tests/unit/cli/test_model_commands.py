"""`tandem models`, `promote`, `rollback` and `releases`, with a whole server behind them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stand_ins.models import BASE, GOOD, MIDDLING, POOR, compare, make_model
from stand_ins.shell import Shell

from tandem.orchestrator.deploying.in_place import without_taken_over


@pytest.fixture
def live(shell: Shell) -> Shell:
    """An endpoint over the base model, a good version and a poor one, both compared."""
    storage = shell.world.cluster.storage
    for version, skill in (("tuned-1", GOOD), ("tuned-22", POOR)):
        make_model(storage, "tuned", version)
        compare(storage, f"c-{version}", skill={"rag": MIDDLING, "raft": skill}, adapters={"raft": f"tuned@{version}"})
    args = {"kind": "rag", "name": "ask", "model": BASE, "retriever": {"collection": "django"}}
    app = {"name": "rag", "route_prefix": "/", "import_path": "tandem.serving.app:build", "args": args}
    shell.world.deployer(shell.serve).deploy({"applications": [app]}, by="ada")
    return shell


def served(shell: Shell) -> dict[str, Any]:
    """What the endpoint answers with."""
    return shell.world.deployer(shell.serve).endpoints()["rag"].canonical()


def lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_a_version_is_promoted_and_taken_back(live: Shell) -> None:
    result = live("promote", "tuned", "tuned-1")
    assert result.exit_code == 0, result.output
    assert result.stdout == "rag: tuned-1 answers; before: the base model\n"
    assert "em 0." in result.stderr
    assert "against the base model" in result.stderr
    assert served(live)["default_model"] == "tuned"
    newest, older = lines(live("models").stdout)
    assert (newest[:3], newest[5]) == (["tuned", "tuned-22", "adapter"], "")
    assert (older[:3], older[5]) == (["tuned", "tuned-1", "adapter"], "rag 100%")
    assert older[4].startswith("em 0.")
    assert older[4].endswith("of 60 (raft, c-tuned-1)")
    result = live("rollback", "tuned")
    assert result.stdout == "rag: the base model answers; before: tuned-1\n"
    assert served(live)["default_model"] is None
    assert live("rollback", "tuned").exit_code == 2
    assert live("promote", "tuned", "tuned-1").stdout == "rag: tuned-1 answers; before: the base model\n"
    rows = lines(live("releases", "rag").stdout)
    assert [(row[2], row[4]) for row in rows] == [
        ("promote", "tuned@tuned-1"), ("rollback", BASE), ("promote", "tuned@tuned-1"), ("deploy", BASE),
    ]  # fmt: skip
    assert [row[3] for row in rows] == ["ada"] * 4
    assert "(raft, c-tuned-1); +0." in rows[2][5]
    assert len(lines(live("releases", "rag", "--limit", "1").stdout)) == 1


def test_a_worse_one_is_refused_unless_it_is_forced(live: Shell) -> None:
    deploys = live.serve.deploys
    result = live("promote", "tuned")
    assert result.exit_code == 1
    assert "error: rag: tuned-22 may not take over: it is worse: em -0." in result.stderr
    result = live("promote", "tuned", "--dry-run")
    assert result.exit_code == 1
    assert result.stdout == "dry run: rag: tuned-22 answers; before: the base model\n"
    assert "against it: it is worse" in result.stderr
    assert live.serve.deploys == deploys
    result = live("promote", "tuned", "--force")
    assert result.exit_code == 0
    assert "against it: it is worse" in result.stderr
    assert "forced, against: it is worse" in live("releases", "rag").stdout


def test_a_canary(live: Shell) -> None:
    result = live("promote", "tuned", "tuned-1", "--canary", "0.1")
    assert result.stdout == "rag: tuned-1 answers 10% of the conversations; the base model the rest\n"
    assert served(live)["canary"] == {"model": "tuned-canary", "share": 0.1}
    assert lines(live("models").stdout)[1][5] == "rag 10%"
    assert lines(live("releases", "rag").stdout)[0][4] == f"{BASE}, 10% tuned@tuned-1"
    result = live("rollback", "tuned", "--dry-run")
    assert result.stdout == "dry run: rag: the base model answers all; what was tried is gone\n"
    assert live("rollback", "tuned").stdout == "rag: the base model answers all; what was tried is gone\n"
    assert served(live)["canary"] is None
    assert live("promote", "tuned", "tuned-1", "--canary", "1").exit_code == 2


def test_as_data(live: Shell) -> None:
    change = json.loads(live("promote", "tuned", "tuned-1", "--json").stdout)
    assert (change["version"], change["standing"]["report"], change["refusals"]) == ("tuned-1", "c-tuned-1", [])
    _, found = json.loads(live("models", "--json").stdout)
    assert found["serving"] == [{"app": "rag", "share": 1.0}]
    assert (found["base"], found["standing"]["against"]) == (BASE, None)
    newest, _ = json.loads(live("releases", "rag", "--json").stdout)
    assert newest["facts"]["standing"] == change["standing"]
    assert newest["spec"]["adapters"] == [{"name": "tuned", "uri": "artifact:tuned@tuned-1"}]


def test_a_deploy_says_what_it_leaves_as_it_is(live: Shell) -> None:
    live("promote", "tuned", "tuned-1")
    args = {**served(live), "adapters": [{"name": "tuned", "uri": "artifact:tuned"}]}
    config = without_taken_over(live.serve.apps["rag"])
    live.world.cluster.storage.joinpath("rag.json").write_text(json.dumps({"applications": [{**config, "args": args}]}))
    result = live("deploy", str(live.world.cluster.storage / "rag.json"))
    assert result.exit_code == 0, result.output
    assert "rag: tuned stays tuned-1, as promoted; the newest is tuned-22" in result.stderr
    assert served(live)["adapters"] == [{"name": "tuned", "uri": "artifact:tuned@tuned-1"}]


def test_without_models_and_without_endpoints(shell: Shell) -> None:
    assert shell("models").stdout == ""
    assert shell("releases", "rag").stdout == ""
    result = shell("promote", "tuned")
    assert result.exit_code == 2
    assert "no artifact artifact:tuned" in result.stderr
