from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest

from tandem.artifacts.manifest import read_manifest
from tandem.data.rows import TrainRow
from tandem.data.splits import question_key
from tandem.data.train_rows import SELECTION_ROWS, TrainRowsFile, seen
from tandem.errors import DataError, InputError, ModelError, TandemError
from tandem.evaluation.job import run
from tandem.evaluation.schema import Report


def report_of(result: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((Path(result["report"]) / "report.json").read_text())
    return data


def three_arms(world: Any, **changes: Any) -> Any:
    adapter = changes.pop("raft_adapter", None) or world.adapter()
    return world.spec(**({"arms": ["base", "rag", "raft"], "raft_adapter": adapter, "slices": ["kind"]} | changes))


def test_a_comparison_ends_with_a_verdict_and_all_its_files(world: Any) -> None:
    result = run(three_arms(world), world.context, world.tools)
    report = report_of(result)
    assert report["verdict"]["winner"] == "raft" == result["winner"]
    # 8 of 40 gold documents aren't retrieved; the rambling arm has the answer, but never alone.
    assert report["arms"]["raft"]["metrics"]["em"] == pytest.approx(32 / 40)
    assert report["arms"]["rag"]["metrics"] | {} == report["arms"]["rag"]["metrics"]
    assert report["arms"]["rag"]["metrics"]["em"] == 0.0
    assert report["arms"]["rag"]["metrics"]["f1"] > report["arms"]["base"]["metrics"]["f1"] == 0.0
    assert report["arms"]["rag"]["metrics"]["recall_at_k"] == pytest.approx(32 / 40)
    assert report["arms"]["base"]["metrics"]["recall_at_k"] is None
    assert report["slices"]["kind"]["even"]["raft"]["n"] == 20
    folder = Path(result["report"])
    assert {path.name for path in folder.iterdir()} == {
        "report.json", "report.html", "report.md", "items.parquet", "manifest.json",
    }  # fmt: skip
    assert read_manifest(folder).type == "report"
    assert report["verdict"]["kind"] == "winner"
    assert report["verdict"]["choose"] == "raft"
    # Why it isn't better still: where the right document wasn't found, nothing helps.
    found, missed = (report["slices"]["gold document retrieved"][value]["raft"] for value in ("yes", "no"))
    assert (found["metrics"]["em"], missed["metrics"]["em"]) == (1.0, 0.0)
    assert world.tracked == ["job-1"]
    assert world.engines[0].closed


def test_the_report_is_valid_against_its_published_schema(world: Any) -> None:
    data = report_of(run(three_arms(world), world.context, world.tools))
    schema = Report.model_json_schema(by_alias=True)
    jsonschema.validate(data, schema)
    assert data["schema"] == 1
    assert set(data) >= {"schema", "id", "dataset", "arms", "pairs", "verdict", "lineage"}
    del data["verdict"]["winner"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)


def test_items_hold_one_row_per_arm_and_question(world: Any) -> None:
    folder = Path(run(three_arms(world), world.context, world.tools)["report"])
    table = pq.read_table(folder / "items.parquet").to_pylist()
    assert len(table) == 3 * 40
    row = next(row for row in table if row["arm"] == "raft" and row["id"] == "q1")
    assert row["prediction"] == "answer1"
    assert row["em"] == 1.0
    assert row["retrieved_ids"] == ["p1", "p1001", "p2001"]
    assert json.loads(row["extra"]) == {"kind": "odd"}


class Scripts(HTMLParser):
    """Collects what a browser would take for a script, or for a handler."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.scripts.append(dict(attrs))
        self.outside += [
            str(value)
            for name, value in attrs
            if name.startswith("on") or (name in ("src", "href") and not str(value).startswith("#"))
        ]


def test_the_page_holds_no_markup_from_the_data_and_nothing_from_outside(world: Any) -> None:
    evil = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
    spec = three_arms(world, eval=str(world.questions(10, kind=evil)))
    page = (Path(run(spec, world.context, world.tools)["report"]) / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    parser = Scripts()
    parser.feed(page)
    assert parser.scripts == [{"type": "application/json", "id": "data"}, {}]
    assert parser.outside == []
    # The data is whole all the same.
    block = page.split('id="data">')[1].split("</script>")[0]
    items = json.loads(block)["items"]
    assert items[0]["arms"]["base"]["text"] == "<script>alert(1)</script>"
    assert items[0]["slices"]["kind"] == evil


def test_a_second_run_asks_nothing_and_gives_the_same_figures(world: Any) -> None:
    spec = three_arms(world)
    first = report_of(run(spec, world.context, world.tools))
    asked = len(world.engines[0].asked)
    second = report_of(run(spec, world.context, world.tools))
    assert asked == 120
    assert len(world.engines) == 1
    del first["created_at"], second["created_at"]
    assert first == second


def test_a_run_that_was_cut_off_goes_on_where_it_was(world: Any) -> None:
    spec = three_arms(world)

    class Killed(BaseException):
        pass

    world.crash = lambda request: Killed() if request.adapter == "raft_adapter" else None
    with pytest.raises(Killed):
        run(spec, world.context, world.tools)
    assert not (world.storage / "artifacts" / "small" / "job-1" / "manifest.json").exists()
    answers = world.context.dir / "answers" / "rag.jsonl"
    lines = answers.read_bytes().splitlines(keepends=True)
    assert len(lines) == 40
    answers.write_bytes(b"".join(lines[:30]) + lines[30][:25])  # killed while it wrote the 31st

    world.crash = lambda request: None
    report = report_of(run(spec, world.context, world.tools))
    assert sorted(len([a for a in world.engines[1].asked if a.startswith(kind)]) for kind in ("None", "raft")) == [
        10,
        40,
    ]
    assert report["verdict"]["winner"] == "raft"
    assert report["arms"]["rag"]["n"] == 40
    assert len(world.searcher.calls) == 2, "retrieved once, in two batches, for both attempts"


def test_a_changed_question_is_asked_again(world: Any) -> None:
    spec = world.spec(arms=["base"])
    run(spec, world.context, world.tools)
    path = Path(spec.eval)
    path.write_text(path.read_text().replace("The value of 7?", "The true value of 7?"))
    run(spec, world.context, world.tools)
    assert world.engines[1].asked == ["None:7"]


def test_an_item_that_crashes_the_engine_is_wrong_and_counted_as_failed(world: Any) -> None:
    def crash(request: Any) -> Exception | None:
        bad = request.adapter == "raft_adapter" and "of 3?" in request.messages[-1]["content"]
        return RuntimeError("out of memory") if bad else None

    world.crash = crash
    report = report_of(run(three_arms(world), world.context, world.tools))
    raft = report["arms"]["raft"]
    assert (raft["failures"], raft["n"]) == (1, 40)
    assert raft["metrics"]["em"] == pytest.approx(31 / 40)
    assert any("raft: 1 of 40 questions failed" in note for note in report["notes"])


def test_an_engine_that_crashes_on_everything_fails_the_job(world: Any) -> None:
    world.crash = lambda request: RuntimeError("no memory")
    with pytest.raises(TandemError, match="engine fails on every question"):
        run(three_arms(world), world.context, world.tools)
    assert not (world.storage / "artifacts" / "small").exists()


def test_passages_that_do_not_fit_are_left_out_from_the_lowest_ranked(world: Any) -> None:
    # A fake token is a word: the frame of a prompt takes 26, a passage 7.
    spec = world.spec(arms=["base", "rag"], engine={"max_model_len": 64}, max_tokens=20)
    report = report_of(run(spec, world.context, world.tools))
    assert report["arms"]["rag"]["failures"] == 0
    assert any("rag: passages were left out" in note for note in report["notes"])
    assert report["arms"]["rag"]["metrics"]["recall_at_k"] == pytest.approx(32 / 40), "what was retrieved, not shown"
    assert report["arms"]["rag"]["metrics"]["answer_in_context"] == pytest.approx(32 / 40), "the first passage stays"


def test_a_question_that_is_too_long_fails_alone(world: Any) -> None:
    path = world.questions(10)
    long = {"id": "long", "question": "The value of 9? " + "word " * 100, "answers": ["answer9"]}
    path.write_text(path.read_text() + json.dumps(long) + "\n")
    spec = world.spec(eval=str(path), arms=["base"], engine={"max_model_len": 80})
    report = report_of(run(spec, world.context, world.tools))
    assert report["arms"]["base"]["failures"] == 1


def test_the_oracle_sees_the_gold_document_and_can_not_win(world: Any) -> None:
    report = report_of(run(world.spec(arms=["rag", "base", "oracle"]), world.context, world.tools))
    assert report["arms"]["oracle"]["candidate"] is False
    assert report["arms"]["oracle"]["metrics"]["answer_in_context"] == 1.0
    assert {name for pair in report["pairs"] for name in (pair["a"], pair["b"])} == {"rag", "base"}
    assert {"source": "doc5.txt"} in world.searcher.calls


def test_the_oracle_needs_gold_documents(world: Any) -> None:
    spec = world.spec(arms=["rag", "oracle"], eval=str(world.questions(4, source=None)))
    with pytest.raises(DataError, match="oracle"):
        run(spec, world.context, world.tools)


def test_an_adapter_of_another_base_model_is_refused_before_anything_runs(world: Any) -> None:
    spec = three_arms(world, raft_adapter=world.adapter("other", base_model="another"))
    with pytest.raises(ModelError, match="another base model, another"):
        run(spec, world.context, world.tools)
    assert world.engines == []


@pytest.mark.parametrize("planted", [{"train_ids": ["q3"]}, {"train_questions": [question_key("the value  of 3?")]}])
def test_questions_that_were_trained_on_are_asked_of_no_arm(world: Any, planted: dict[str, Any]) -> None:
    spec = three_arms(world, raft_adapter=world.adapter("leaky", data=planted))
    report = report_of(run(spec, world.context, world.tools))
    assert {arm["n"] for arm in report["arms"].values()} == {39}
    assert (report["dataset"]["leaked"], report["dataset"]["n"]) == (1, 39)
    assert "None:3" not in world.engines[0].asked
    assert any("trained on 1 of the 40 questions" in note for note in report["notes"])


def test_the_same_ids_of_other_questions_are_no_leak(world: Any) -> None:
    planted = {"train_ids": ["q3"], "train_questions": [question_key("something else?")]}
    spec = three_arms(world, raft_adapter=world.adapter("clean", data=planted))
    assert report_of(run(spec, world.context, world.tools))["dataset"]["leaked"] == 0


def test_questions_that_were_all_trained_on_are_refused(world: Any) -> None:
    planted = {"train_ids": [f"q{n}" for n in range(1, 41)]}
    spec = three_arms(world, raft_adapter=world.adapter("leaky", data=planted))
    with pytest.raises(DataError, match="all 40 questions were trained on"):
        run(spec, world.context, world.tools)


def test_training_rows_that_are_known_and_apart_leave_no_note(world: Any) -> None:
    known = {"train_ids": ["t1"], "train_sha256": "abc"}
    spec = three_arms(world, raft_adapter=world.adapter("clean", data=known))
    report = report_of(run(spec, world.context, world.tools))
    assert report["notes"] == []
    assert report["dataset"]["train"] == {"raft_adapter": "abc"}


def test_questions_by_which_a_checkpoint_was_chosen_are_asked_and_noted(world: Any) -> None:
    uri = world.adapter("chosen", data={"train_ids": []})
    with TrainRowsFile(world.storage / "artifacts" / "chosen" / "job-0" / SELECTION_ROWS) as file:
        file.add(seen(TrainRow("e", question="The value of 3?", answers=("answer3",))))
    report = report_of(run(three_arms(world, raft_adapter=uri), world.context, world.tools))
    assert report["dataset"]["n"] == 40
    assert report["notes"] == [f"{uri}: its checkpoint was chosen by 1 of the 40 questions, which favours its arms."]


def test_training_that_is_unknown_is_noted(world: Any) -> None:
    report = report_of(run(three_arms(world), world.context, world.tools))
    assert any("leak can't be ruled out" in note for note in report["notes"])


def test_an_adapter_of_another_prompt_is_noted(world: Any) -> None:
    data = {"train_ids": ["t1"]}
    own = world.adapter("own", data=data, prompt=world.spec().prompt.canonical())
    assert report_of(run(three_arms(world, raft_adapter=own), world.context, world.tools))["notes"] == []
    other = world.adapter("other", data=data, prompt=world.spec().prompt.canonical() | {"question": "Q: {question}"})
    report = report_of(run(three_arms(world, raft_adapter=other), world.context, world.tools))
    assert report["notes"] == ["artifact:other was trained with another prompt than it is asked with."]


def test_a_limit_asks_fewer_and_always_the_same(world: Any) -> None:
    reports = [report_of(run(world.spec(limit=10), world.context, world.tools)) for _ in range(2)]
    assert reports[0]["dataset"]["n"] == 10
    assert reports[0]["dataset"]["available"] == 40
    assert reports[0]["dataset"]["split_sha256"] == reports[1]["dataset"]["split_sha256"]


def test_a_slice_that_no_question_has_is_refused(world: Any) -> None:
    with pytest.raises(DataError, match="no question has a column 'colour'"):
        run(world.spec(slices=["colour"]), world.context, world.tools)


def test_broken_rows_are_counted_once_however_often_the_job_runs(world: Any) -> None:
    path = world.questions(40)
    path.write_text(path.read_text() + "{broken\n")
    spec = world.spec(eval=str(path), max_quarantined=0.1)
    run(spec, world.context, world.tools)
    report = report_of(run(spec, world.context, world.tools))
    assert report["dataset"]["quarantined"] == 1


def test_costs_follow_from_seconds_cores_and_prices(world: Any) -> None:
    adapter = world.adapter("priced", metrics={"seconds": 3600.0, "cpus": 2.0})
    spec = three_arms(world, raft_adapter=adapter, prices={"cpu_hour": 1.5})
    report = report_of(run(spec, world.context, world.tools))
    assert report["arms"]["raft"]["cost"]["train"] == pytest.approx(3.0)
    assert report["arms"]["base"]["cost"]["train"] == 0.0
    assert report["arms"]["base"]["cost"]["per_correct"] is None
    cost = report["arms"]["raft"]["cost"]
    assert cost["per_correct"] == pytest.approx(cost["per_1k"] * 40 / 1000 / 32)


def test_an_input_error_of_the_engine_fails_its_question_alone(world: Any) -> None:
    world.crash = lambda request: (
        InputError("too long", where="request 0") if "of 3?" in request.messages[-1]["content"] else None
    )
    report = report_of(run(world.spec(arms=["base"]), world.context, world.tools))
    assert report["arms"]["base"]["failures"] == 1


def test_adapters_of_several_seeds_are_one_arm_with_a_spread_of_its_own(world: Any) -> None:
    both = [world.adapter("one"), world.adapter("two")]
    report = report_of(run(three_arms(world, raft_adapter=both), world.context, world.tools))
    raft = report["arms"]["raft"]
    # The second one gets one question wrong that the first gets right: 32 and 31 of 40.
    assert raft["metrics"]["em"] == pytest.approx(31.5 / 40)
    assert raft["seeds"]["n"] == 2
    assert raft["seeds"]["range"]["em"] == [31 / 40, 32 / 40]
    assert report["arms"]["rag"]["seeds"] is None
    assert set(world.engines[0].adapters) == {"raft_adapter", "raft_adapter-2"}
    # Half a point for a question is nothing that McNemar's test knows of.
    tests = {pair["test"] for pair in report["pairs"] if pair["metric"] == "em" and "raft" in (pair["a"], pair["b"])}
    assert tests == {"permutation"}
    table = pq.read_table(Path(world.context.artifact_dir()) / "items.parquet").to_pylist()
    assert sorted(row["seed"] for row in table if row["arm"] == "raft" and row["id"] == "q3") == [0, 1]


def test_a_budget_asks_a_sample_of_every_stratum_and_the_same_one_again(world: Any) -> None:
    world.seconds = 0.5
    spec = three_arms(world, eval=str(world.questions(400)), budget_s=150.0)
    first = report_of(run(spec, world.context, world.tools))
    asked = first["dataset"]["n"]
    assert asked == 100  # half a second for each of three arms
    assert world.now == pytest.approx(150.0)
    kinds = {value: by_arm["base"]["n"] for value, by_arm in first["slices"]["kind"].items()}
    assert abs(kinds["even"] - kinds["odd"]) <= 1
    assert any(f"{asked} of 400 questions were asked" in note for note in first["notes"])
    assert {arm["n"] for arm in first["arms"].values()} == {asked}
    second = report_of(run(spec, world.context, world.tools))
    assert second["dataset"]["split_sha256"] == first["dataset"]["split_sha256"]
    assert len(world.engines) == 1


def test_a_budget_for_everything_asks_everything(world: Any) -> None:
    report = report_of(run(three_arms(world, budget_s=3600.0), world.context, world.tools))
    assert report["dataset"]["n"] == 40
    assert not any("questions were asked" in note for note in report["notes"])
