from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stand_ins.report import report
from stand_ins.shell import Shell

from tandem.cli import compare as comparing
from tandem.errors import UnreachableError
from tandem.orchestrator.ray_jobs import HttpRayJobs, Machine

REPORT = report("raft", base=0.0, raft=0.5)


@pytest.fixture
def submitted(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was submitted; it ends at once with what its kind returns."""
    specs: list[dict[str, Any]] = []
    folder = shell.world.cluster.storage / "report"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(REPORT))

    def submit_and_follow(_: Any, spec: dict[str, Any], title: str, *, again: bool = False) -> dict[str, Any]:
        specs.append(spec)
        if spec["kind"] == "compare":
            return {"report": str(folder)}
        result = {name: {"job": f"{step['spec']['name']}-{len(specs)}"} for name, step in spec["steps"].items()}
        result["compare"]["report"] = str(folder)
        return {"steps": result}

    monkeypatch.setattr(comparing, "submit_and_follow", submit_and_follow)
    machine = Machine(cpus=4.0, gpus=0.0, memory=0, gpu_memory=0)
    monkeypatch.setattr(HttpRayJobs, "machines", lambda _: [machine])
    return specs


def spec_of(pipeline: dict[str, Any], step: str) -> dict[str, Any]:
    spec: dict[str, Any] = pipeline["steps"][step]["spec"]
    return spec


@pytest.fixture
def qa(tmp_path: Path) -> Path:
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"what is {n}?", "answers": [f"{n}"]}) for n in range(20)))
    return path


def test_the_whole_way_from_a_folder_to_a_verdict_and_an_endpoint(
    shell: Shell, submitted: list[dict[str, Any]], docs: Path, qa: Path
) -> None:
    result = shell("compare", "--docs", str(docs), "--qa", str(qa))
    assert result.exit_code == 0, result.output
    (pipeline,) = submitted
    assert list(pipeline["steps"]) == ["docs", "tuned", "raft", "compare"]
    # The same training but for the passages, and each arm with what it was made for.
    alone, with_passages = (spec_of(pipeline, step) for step in ("tuned", "raft"))
    assert {key for key in alone if alone[key] != with_passages[key]} == {"name", "retrieval"}
    assert spec_of(pipeline, "compare")["adapter"] == "${tuned.artifact}"
    assert spec_of(pipeline, "compare")["arms"] == ["base", "rag", "tuned", "tuned_rag", "raft"]
    train_path, eval_path = Path(spec_of(pipeline, "raft")["data"]["train"]), Path(spec_of(pipeline, "compare")["eval"])
    train, held_out = ([json.loads(line) for line in path.read_text().splitlines()] for path in (train_path, eval_path))
    assert (len(train), len(held_out)) == (14, 6)
    assert not {row["question"] for row in train} & {row["question"] for row in held_out}
    # The adapter that this run made, and no later one of the same name.
    assert spec_of(pipeline, "compare")["raft_adapter"] == "${raft.artifact}"
    assert shell.serve.apps["docs"]["args"]["adapters"] == [
        {"name": "docs-raft", "uri": "artifact:docs-raft@docs-raft-1"}
    ]
    assert shell.serve.apps["docs"]["args"]["default_model"] == "docs-raft"
    assert "answers as raft does;" in result.output
    assert "verdict: raft wins: it answers 50 % of 4 questions exactly right" in result.stdout
    written = train_path.stat().st_mtime_ns
    assert json.loads(shell("compare", "--docs", str(docs), "--qa", str(qa), "--no-deploy", "--json").stdout) == REPORT
    # The same folder and questions are the same pipeline, which the server knows to be done; nor are its files newer.
    assert submitted[1] == pipeline
    assert train_path.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (report("rag", raft=0.0, rag=0.5), "answers as rag does;"),
        (
            report("tuned", base=0.0, tuned=0.5),
            "answers as rag does (chosen was tuned, which is no arm of an endpoint's)",
        ),
    ],
)
def test_an_endpoint_answers_by_itself_as_no_arm_does_that_was_not_chosen(
    shell: Shell, submitted: list[dict[str, Any]], docs: Path, qa: Path, made: dict[str, Any], says: str
) -> None:
    (shell.world.cluster.storage / "report" / "report.json").write_text(json.dumps(made))
    result = shell("compare", "--docs", str(docs), "--qa", str(qa))
    assert result.exit_code == 0, result.output
    assert says in result.output
    assert shell.serve.apps["docs"]["args"]["default_model"] is None
    assert [adapter["name"] for adapter in shell.serve.apps["docs"]["args"]["adapters"]] == ["docs-raft"]


@pytest.mark.parametrize(("gpus", "workers"), [((), 2), ((1.0,), 1), ((1.0, 1.0), 2), ((8.0,), 2)])
def test_a_short_training_has_two_workers_where_each_finds_a_gpu_or_a_core(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, gpus: tuple[float, ...], workers: int
) -> None:
    machines = [Machine(cpus=8.0, gpus=each, memory=0, gpu_memory=0) for each in (0.0, *gpus)]
    monkeypatch.setattr(HttpRayJobs, "machines", lambda _: machines)
    monkeypatch.setattr("tandem.config.machine.cores", lambda: 4)
    assert comparing.training_workers(shell.world.cluster) == workers


def test_without_an_answer_nobody_knows_how_many_workers_there_is_room_for(shell: Shell) -> None:
    with pytest.raises(UnreachableError, match="Ray doesn't answer"):
        comparing.training_workers(shell.world.cluster)


def test_changed_documents_are_other_jobs(shell: Shell, submitted: list[dict[str, Any]], docs: Path, qa: Path) -> None:
    command = ("compare", "--docs", str(docs), "--qa", str(qa), "--no-train", "--no-deploy")
    assert shell(*command).exit_code == 0
    (docs / "b.md").write_text("new")
    assert shell(*command).exit_code == 0
    before, after = submitted
    assert list(before["steps"]) == list(after["steps"]) == ["docs", "compare"]
    assert spec_of(before, "docs")["revision"] != spec_of(after, "docs")["revision"]
    assert spec_of(before, "compare")["eval"] != spec_of(after, "compare")["eval"]
    assert spec_of(before, "compare")["arms"] == ["base", "rag"]
    assert shell.serve.apps == {}


def test_an_adapter_that_exists_is_not_trained(
    shell: Shell, submitted: list[dict[str, Any]], docs: Path, qa: Path
) -> None:
    result = shell(
        "compare", "--docs", str(docs), "--qa", str(qa), "--adapter", "artifact:mine@1", "--name", "mine", "--no-deploy"
    )
    assert result.exit_code == 0
    (pipeline,) = submitted
    assert [spec_of(pipeline, step)["name"] for step in pipeline["steps"]] == ["mine-docs", "mine-compare"]
    assert spec_of(pipeline, "compare")["raft_adapter"] == "artifact:mine@1"


def test_several_seeds_a_budget_and_gold_documents(
    shell: Shell, submitted: list[dict[str, Any]], docs: Path, tmp_path: Path
) -> None:
    rows = [{"question": f"what is {n}?", "answers": [f"{n}"], "source": "a.md"} for n in range(20)]
    (tmp_path / "gold.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ("compare", "--docs", str(docs), "--qa", "gold.jsonl", "--no-deploy")
    result = shell(*command, "--seeds", "2", "--budget", "30m")
    assert result.exit_code == 0, result.output
    compare = spec_of(submitted[0], "compare")
    assert compare["raft_adapter"] == ["${raft.artifact}", "${raft-2.artifact}"]
    assert [spec_of(submitted[0], step)["schedule"]["seed"] for step in ("tuned", "raft", "tuned-2", "raft-2")] == [
        0, 0, 1, 1,
    ]  # fmt: skip
    assert compare["budget_s"] == 1800
    assert compare["arms"][-1] == "oracle"
    refused = shell(*command, "--budget", "soon")
    assert (refused.exit_code, "--budget: no span of time: 'soon'" in refused.output) == (2, True)


def test_a_quick_answer_trains_and_serves_nothing_and_says_so(
    shell: Shell, submitted: list[dict[str, Any]], docs: Path, qa: Path
) -> None:
    result = shell("compare", "--docs", str(docs), "--qa", str(qa), "--quick")
    assert result.exit_code == 0, result.output
    assert list(submitted[0]["steps"]) == ["docs", "compare"]
    assert spec_of(submitted[0], "compare")["budget_s"] == 120
    assert shell.serve.apps == {}
    assert "a quick answer: all questions; fine-tuning was not tried" in result.output


def test_a_compare_file(shell: Shell, submitted: list[dict[str, Any]], tmp_path: Path, qa: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"kind: compare\nname: c\nmodel: hf:a/b\neval: {qa}\ncollection: docs\n")
    result = shell("compare", "c.yaml", "top_k=5", "--json")
    assert json.loads(result.stdout)["verdict"]["winner"] == "raft"
    assert submitted[0]["top_k"] == 5


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("c.yaml", "--model", "hf:X", "--seeds", "3"), "--seeds, --model: for --docs and --qa alone"),
        (("c.yaml", "--qa", "qa.jsonl"), "--qa: a FILE names"),
        (("--docs", "docs", "--qa", "qa.jsonl", "--quick", "--max-steps", "5"), "--max-steps: nothing is trained"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    shell: Shell, submitted: list[dict[str, Any]], words: tuple[str, ...], named: str
) -> None:
    result = shell("compare", *words)
    assert (result.exit_code, named in result.output) == (2, True), result.output
    assert not submitted


def test_the_metric_of_the_verdict_is_chosen(
    shell: Shell, submitted: list[dict[str, Any]], docs: Path, qa: Path
) -> None:
    command = ("compare", "--docs", str(docs), "--qa", str(qa), "--no-train", "--no-deploy", "--metric")
    assert shell(*command, "bleu").exit_code == 0
    assert spec_of(submitted[0], "compare")["primary"] == "bleu"
    result = shell(*command, "accuracy")
    assert result.exit_code == 2
    assert "'accuracy' is none of em, f1, rouge_l, bleu, chrf" in result.stderr
