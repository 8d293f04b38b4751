"""`tandem report`: one comparison, or two side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stand_ins.comparisons import Runs, job_context, report_of, simulate, simulate_labels
from stand_ins.report import report
from stand_ins.shell import Shell

from tandem.evaluation.report.building import Inputs, write_report
from tandem.evaluation.schema import Report

ARMS = ["base", "rag", "raft"]


def written(root: Path, name: str, simulated: tuple[Inputs, Runs], **changes: Any) -> Path:
    """A comparison's files, as its job leaves them."""
    folder = root / name
    folder.mkdir()
    inputs, runs = simulated
    made, _ = report_of(simulated, **changes)
    write_report(made, inputs, runs, folder, job_context(root / f"{name}-job"), lambda *_: None)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """The same questions; the second one's raft arm is much worse, and its engine another one."""
    before = simulate(80, arms=ARMS)
    after = simulate(80, arms=ARMS, skill={"raft": (0.4, 0.1, 0.1)}, top_k=5)
    return written(tmp_path, "before", before), written(tmp_path, "after", after, engine="transformers")


def test_one_by_its_folder_or_file_needs_no_server(shell: Shell, two: tuple[Path, Path], monkeypatch: Any) -> None:
    monkeypatch.setattr("tandem.cli.client.Client.connect", lambda: pytest.fail("asked a server"))
    told = shell("report", str(two[0]))
    assert told.exit_code == 0, told.output
    assert "verdict: raft wins" in told.stdout
    assert str(two[0] / "report.html") in told.stderr
    same = shell("report", str(two[0] / "report.json"), "--json")
    assert json.loads(same.stdout) == json.loads((two[0] / "report.json").read_text())


def test_two_side_by_side(shell: Shell, two: tuple[Path, Path]) -> None:
    told = shell("report", *map(str, two))
    assert told.exit_code == 0, told.output
    rows = {line.split("\t")[0]: line.split("\t") for line in told.stdout.splitlines()}
    assert rows["asked"] == ["asked", "80", "80: the same"]
    assert rows["headline"][1] == "Choose raft"
    found = json.loads(shell("report", *map(str, two), "--json").stdout)
    assert (found["same_questions"], found["untested"]) == (True, None)
    raft, base = found["arms"]["raft"], found["arms"]["base"]
    assert raft["test"]["p_adjusted"] < 0.001
    assert raft["test"]["diff"] == pytest.approx(raft["figures"]["em"]["b"] - raft["figures"]["em"]["a"])
    assert (base["test"]["p"], base["test"]["wins"], base["test"]["losses"]) == (1.0, 0, 0), "it answered the same"
    (line,) = [line for line in told.stdout.splitlines() if line.startswith("raft\t0.")]
    assert line.endswith("A is better")
    changed = {each["what"]: (each["a"], each["b"]) for each in found["changed"]}
    assert changed["engine.used"] == ("vllm", "transformers")
    assert changed["spec.top_k"] == (3, 5)
    assert set(changed) == {"engine.used", "spec.top_k", "spec_sha256"}
    assert "engine.used\tvllm\ttransformers" in told.stdout


def test_the_adjusted_p_is_over_the_arms_that_both_have(shell: Shell, tmp_path: Path) -> None:
    a = written(tmp_path, "a", simulate(80, arms=["base", "raft"]))
    b = written(tmp_path, "b", simulate(80, arms=["rag", "raft", "base"], skill={"raft": (0.6, 0.1, 0.1)}))
    found = json.loads(shell("report", str(a), str(b), "--json").stdout)
    assert (list(found["arms"]), found["only_a"], found["only_b"]) == (["raft", "base"], [], ["rag"])
    tests = [arm["test"] for arm in found["arms"].values()]
    lowest = min(test["p"] for test in tests)
    assert min(test["p_adjusted"] for test in tests) == pytest.approx(2 * lowest)


def test_other_questions_are_told_and_not_tested(shell: Shell, tmp_path: Path) -> None:
    a = written(tmp_path, "a", simulate(40, arms=ARMS))
    b = written(tmp_path, "b", simulate(60, arms=ARMS), split_sha256="77" * 32)
    found = json.loads(shell("report", str(a), str(b), "--json").stdout)
    assert (found["same_questions"], found["untested"]) == (False, "they asked different questions")
    assert all(arm["test"] is None for arm in found["arms"].values())
    told = shell("report", str(a), str(b)).stdout
    assert "no tests\tthey asked different questions" in told
    assert "asked\t40\t60: others" in told
    assert any(row.startswith("dataset.split_sha256\t5b5b") for row in told.splitlines())


def test_without_items_there_are_no_tests(shell: Shell, two: tuple[Path, Path]) -> None:
    (two[1] / "items.parquet").unlink()
    found = json.loads(shell("report", *map(str, two), "--json").stdout)
    assert found["untested"] == "items.parquet of django-5d0c2f1a isn't there"


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_labels_side_by_side(shell: Shell, tmp_path: Path, metric: str) -> None:
    folders = [
        written(tmp_path, name, simulate_labels(120, primary=metric, arms=arms))
        for name, arms in (("a", ["base", "tuned"]), ("b", ["tuned", "base"]))
    ]
    # Another order of arms gave them other skills: base is better in b.
    found = json.loads(shell("report", *map(str, folders), "--json").stdout)
    for arm in found["arms"].values():
        assert arm["test"]["diff"] == pytest.approx(arm["figures"][metric]["diff"])
    assert found["arms"]["base"]["test"]["diff"] > 0 > found["arms"]["tuned"]["test"]["diff"]


def test_answers_and_labels_have_nothing_in_common(shell: Shell, tmp_path: Path) -> None:
    a = written(tmp_path, "a", simulate(12, arms=ARMS))
    b = written(tmp_path, "b", simulate_labels(20))
    result = shell("report", str(a), str(b))
    assert result.exit_code == 2
    assert "a comparison of generation can't stand beside one of classification" in result.stderr


def test_two_as_a_page(shell: Shell, two: tuple[Path, Path], tmp_path: Path) -> None:
    result = shell("report", *map(str, two), "--html", "two.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "two.html").read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "A is better" in page
    assert "engine.used" in page
    refused = shell("report", *map(str, two), "--html", "nowhere/two.html")
    assert (refused.exit_code, "can't be written" in refused.stderr) == (2, True)
    assert shell("report", str(two[0]), "--html", "one.html").exit_code == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "isn't JSON"),
        ("[]", "isn't a report as this version writes it: report:"),
        (json.dumps({key: value for key, value in report("raft", base=0.1, raft=0.6).items() if key != "task"}),
         "isn't a report as this version writes it: task: Field required"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_report(shell: Shell, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "report.json").write_text(content)
    result = shell("report", str(tmp_path))
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_without_a_report_is_no_job_either(shell: Shell, tmp_path: Path) -> None:
    for name in (str(tmp_path), "x" * 5000):
        result = shell("report", name)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1


def test_the_schema_of_a_report_is_published(shell: Shell) -> None:
    import jsonschema

    schema = json.loads(shell("schema", "report").stdout)
    data = report("raft", base=0.1, raft=0.6)
    jsonschema.validate(data, schema)
    Report.model_validate(data)
    del data["verdict"]["choose"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)


@pytest.mark.parametrize("metric", ["rouge_l", "bleu", "chrf"])
def test_two_by_any_metric_of_a_verdict(shell: Shell, tmp_path: Path, metric: str) -> None:
    before = written(tmp_path, "before", simulate(80, arms=ARMS, primary=metric, seeds=2))
    poor = simulate(80, arms=ARMS, primary=metric, skill={"raft": (0.3, 0.1, 0.1)})
    after = written(tmp_path, "after", poor)
    found = json.loads(shell("report", str(before), str(after), "--json").stdout)
    assert found["metric"] == metric
    raft = found["arms"]["raft"]
    figures = raft["figures"][metric]
    # What is tested is the difference of what the reports say.
    assert raft["test"]["diff"] == pytest.approx(figures["diff"], abs=1e-9 if metric == "rouge_l" else 0.02)
    assert raft["test"]["diff"] < 0
    assert raft["test"]["p"] < 0.05
    assert found["arms"]["base"]["test"]["p"] > 0.05
