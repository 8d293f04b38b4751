from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stand_ins.report import report
from stand_ins.shell import Shell

from tandem.artifacts.manifest import write_manifest
from tandem.cli import compare as comparing

REPORT = report("raft", base=0.0, raft=0.5)


@pytest.fixture
def steps(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The jobs that were submitted; each ends at once with what its kind returns."""
    submitted: list[dict[str, Any]] = []
    storage = shell.world.cluster.storage

    def submit_and_follow(_: Any, spec: dict[str, Any], title: str, *, again: bool = False) -> dict[str, Any]:
        submitted.append(spec)
        folder = storage / "artifacts" / spec["name"] / f"{spec['name']}-{len(submitted)}"
        folder.mkdir(parents=True)
        if spec["kind"] == "finetune":
            write_manifest(folder, name=spec["name"], id=folder.name, type="adapter", meta={})
        (folder / "report.json").write_text(json.dumps(REPORT))
        return {"artifact": str(folder), "report": str(folder)}

    monkeypatch.setattr(comparing, "submit_and_follow", submit_and_follow)
    return submitted


@pytest.fixture
def qa(tmp_path: Path) -> Path:
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"what is {n}?", "answers": [f"{n}"]}) for n in range(20)))
    return path


def test_the_whole_way_from_a_folder_to_a_verdict_and_an_endpoint(
    shell: Shell, steps: list[dict[str, Any]], docs: Path, qa: Path
) -> None:
    result = shell("compare", "--docs", str(docs), "--qa", str(qa))
    assert result.exit_code == 0, result.output
    assert [spec["kind"] for spec in steps] == ["index", "finetune", "compare"]
    train = [json.loads(line) for line in Path(steps[1]["data"]["train"]).read_text().splitlines()]
    held_out = [json.loads(line) for line in Path(steps[2]["eval"]).read_text().splitlines()]
    assert (len(train), len(held_out)) == (14, 6)
    assert not {row["question"] for row in train} & {row["question"] for row in held_out}
    # The adapter that this run made, and no later one of the same name.
    assert steps[2]["raft_adapter"] == "artifact:docs-raft@docs-raft-2"
    assert shell.serve.apps["docs"]["args"]["adapters"] == [
        {"name": "docs-raft", "uri": "artifact:docs-raft@docs-raft-2"}
    ]
    assert "verdict: raft wins: it answers 50 % of 4 questions exactly right" in result.stdout
    assert json.loads(shell("compare", "--docs", str(docs), "--qa", str(qa), "--no-deploy", "--json").stdout) == REPORT
    # The same folder and questions are the same jobs, which the server knows to be done.
    assert steps[3] == steps[0]


def test_changed_documents_are_other_jobs(shell: Shell, steps: list[dict[str, Any]], docs: Path, qa: Path) -> None:
    command = ("compare", "--docs", str(docs), "--qa", str(qa), "--no-train", "--no-deploy")
    assert shell(*command).exit_code == 0
    (docs / "b.md").write_text("new")
    assert shell(*command).exit_code == 0
    assert [spec["kind"] for spec in steps] == ["index", "compare", "index", "compare"]
    assert steps[0]["revision"] != steps[2]["revision"]
    assert steps[1]["eval"] != steps[3]["eval"]
    assert steps[1]["arms"] == ["base", "rag"]
    assert shell.serve.apps == {}


def test_an_adapter_that_exists_is_not_trained(shell: Shell, steps: list[dict[str, Any]], docs: Path, qa: Path) -> None:
    result = shell(
        "compare", "--docs", str(docs), "--qa", str(qa), "--adapter", "artifact:mine@1", "--name", "mine", "--no-deploy"
    )
    assert result.exit_code == 0
    assert [spec["name"] for spec in steps] == ["mine-docs", "mine-compare"]
    assert steps[1]["raft_adapter"] == "artifact:mine@1"


def test_a_compare_file(shell: Shell, steps: list[dict[str, Any]], tmp_path: Path, qa: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"kind: compare\nname: c\nmodel: hf:a/b\neval: {qa}\ncollection: docs\n")
    result = shell("compare", "c.yaml", "top_k=5", "--json")
    assert json.loads(result.stdout)["verdict"]["winner"] == "raft"
    assert steps[0]["top_k"] == 5
