"""A comparison of classifiers from outside: planted knowledge, known figures, leaks, crashes, a second attempt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tandem.artifacts.manifest import write_manifest
from tandem.data.duplicates import text_digest
from tandem.data.labelled import LabelledRow
from tandem.data.labelled_splits import labelled_sha256, split_labelled
from tandem.errors import DataError, ModelError, TandemError
from tandem.evaluation.job import run
from tandem.models.classifier import Read
from tandem.models.engines import Generation, GenerationRequest
from tandem.specs.compare import CompareSpec

LABELS = ("art", "sport", "tech")


def text_of(n: int) -> str:
    """What a text is like (its neighbours), what the head takes it for and how surely, and words of its own."""
    label, wrong = LABELS[n % 3], LABELS[(n + 1) % 3]
    like = f"{wrong}~" if n % 7 == 0 else label
    head = f"{wrong}? " if n % 5 == 0 else f"{label}! "
    return f"{like} {head} " + " ".join(f"w{n}x{at}" for at in range(20))


def rows(count: int = 240) -> list[LabelledRow]:
    return [LabelledRow(f"r{n}", text_of(n), LABELS[n % 3]) for n in range(count)]


class FakeEncoder:
    """Texts that begin with the same word are alike, less so where it misleads."""

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def encode(self, texts: Sequence[str]) -> Any:
        self.encoded.append(len(texts))
        words = [text.split()[0] for text in texts]
        likeness = [[(0.9 if "~" in word else 1.0) * (word.rstrip("~") == label) for label in LABELS] for word in words]
        return np.array(likeness, dtype=np.float32)

    def remembered(self, texts: Sequence[str]) -> Any:
        return self.encode(texts)


class FakeScorer:
    """Without examples it always says the first label; with some it repeats that of the last."""

    name = "fake"

    def __init__(
        self, labels: Sequence[str], crash: Callable[[str], BaseException | None], works: Callable[[int], None]
    ) -> None:
        self.labels = labels
        self.crash = crash
        self.works = works
        self.asked: list[GenerationRequest] = []
        self.closed = False

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        for request in requests:
            if error := self.crash(str(request.messages)):
                raise error
        self.works(len(requests))
        self.asked += requests
        said = [[turn["content"] for turn in request.messages if turn["role"] == "assistant"] for request in requests]
        return [Generation(each[-1] if each else self.labels[0], 10, 2, "stop", 5.0) for each in said]

    def close(self) -> None:
        self.closed = True


class FakeHead:
    """Believes what its part of the text says: surely before a `!`, hardly before a `?`."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.texts: list[str] = []
        self.closed = False

    def read(self, texts: Sequence[str]) -> Read:
        self.texts += texts
        told = [text.split()[1] for text in texts]
        chances = [
            [(0.8 if told[-1] == "!" else 0.4) if told[:-1] == label else 0.1 if told[-1] == "!" else 0.3
             for label in self.labels]
            for told in told
        ]  # fmt: skip
        return Read(np.array(chances, dtype=np.float32), (7,) * len(texts), (2.0,) * len(texts))

    def close(self) -> None:
        self.closed = True


@dataclass
class Classes:
    """The `World` of a comparison, with rows, a classifier and what reads them."""

    world: Any
    encoder: FakeEncoder = field(default_factory=FakeEncoder)
    scorers: list[FakeScorer] = field(default_factory=list)
    heads: list[FakeHead] = field(default_factory=list)
    crash: Callable[[str], BaseException | None] = lambda prompt: None

    @property
    def tools(self) -> Any:
        def scorer(spec: Any, model: Path, labels: Sequence[str]) -> FakeScorer:
            self.scorers.append(FakeScorer(labels, self.crash, self.world.work))
            return self.scorers[-1]

        def head(spec: Any, classifier: Any, storage: Path) -> FakeHead:
            self.heads.append(FakeHead(classifier.labels))
            return self.heads[-1]

        return replace(self.world.tools, encoder=lambda spec, storage: self.encoder, scorer=scorer, head=head)

    def file(self, some: Sequence[LabelledRow], name: str = "rows.jsonl") -> str:
        path = self.world.root / name
        path.write_text("".join(json.dumps({"id": r.id, "text": r.text, "label": r.label}) + "\n" for r in some))
        return str(path)

    def classifier(self, data: Mapping[str, Any] | None = None, *, name: str = "told", **meta: Any) -> str:
        """An artifact as a finetune job leaves it; trained on our training rows unless it is said."""
        folder = self.world.storage / "artifacts" / name / "job-0"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(name.encode())
        (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(LABELS))}))
        (folder / "spec.json").write_text(json.dumps({"schedule": {"max_length": 64}}))
        train = split_labelled(rows(), None, eval_fraction=0.25, where="").train
        known = {"train_sha256": labelled_sha256(train)} if data is None else dict(data)
        metrics = {"labels": LABELS, "seconds": 3600.0, "cpus": 2.0}
        meta = {"task": "classification", "data": known, "metrics": metrics} | meta
        write_manifest(folder, name=name, id="job-0", type="model", meta=meta)
        return f"artifact:{name}"

    def spec(self, **changes: Any) -> CompareSpec:
        values: dict[str, Any] = {
            "kind": "compare",
            "task": "classification",
            "name": "classes",
            "model": "model",
            "arms": ["base", "rag", "tuned", "tuned_rag"],
            "bootstrap": 200,
        }
        if "train" not in changes:
            values["train"] = self.file(rows())
        if "classifier" not in changes:
            values["classifier"] = self.classifier()
        return CompareSpec(**(values | changes))

    def run(self, **changes: Any) -> dict[str, Any]:
        return self.report(self.spec(**changes))

    def report(self, spec: CompareSpec) -> dict[str, Any]:
        folder = Path(run(spec, self.world.context, self.tools)["report"])
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
        return report

    def items(self) -> dict[tuple[str, str], dict[str, Any]]:
        (path,) = self.world.storage.glob("artifacts/small/*/items.parquet")
        return {(row["arm"], row["id"]): row for row in pq.read_table(path).to_pylist()}


@pytest.fixture
def classes(world: Any) -> Classes:
    return Classes(world)


def asked() -> list[int]:
    """The numbers of the rows that are held out."""
    return sorted(int(row.id[1:]) for row in split_labelled(rows(), None, eval_fraction=0.25, where="").eval)


def test_four_arms_are_measured_on_the_texts_that_the_classifier_never_saw(classes: Classes) -> None:
    report = classes.run()
    held_out = asked()
    accuracy = {name: arm["metrics"]["accuracy"] for name, arm in report["arms"].items()}
    share = 1 / len(held_out)
    assert accuracy["base"] == pytest.approx(share * sum(n % 3 == 0 for n in held_out))
    assert accuracy["rag"] == pytest.approx(share * sum(n % 7 != 0 for n in held_out))
    assert accuracy["tuned"] == pytest.approx(share * sum(n % 5 != 0 for n in held_out))
    # The head outvotes neighbours where it is sure, and they outvote it where it isn't.
    assert accuracy["tuned_rag"] == pytest.approx(share * sum(n % 35 != 0 for n in held_out))
    assert report["verdict"]["winner"] == "tuned_rag"
    assert report["verdict"]["metric"] == "accuracy"
    assert report["dataset"]["n"] == report["dataset"]["available"] == len(held_out) == report["arms"]["rag"]["n"]
    assert set(report["slices"]) >= {"label", "neighbours' labels"}
    assert {value: arms["base"]["metrics"]["accuracy"] for value, arms in report["slices"]["label"].items()} == {
        "art": 1.0, "sport": 0.0, "tech": 0.0,
    }  # fmt: skip
    # Of three labels only one is given: its precision is its share, its recall 1.
    precision = accuracy["base"]
    assert report["arms"]["base"]["metrics"]["macro_f1"] == pytest.approx(2 * precision / (1 + precision) / 3)
    assert report["arms"]["base"]["metrics"]["neighbour_accuracy"] is None
    assert classes.scorers[0].closed
    assert classes.heads[0].closed
    assert report["notes"] == []
    assert report["dataset"]["near_duplicates"]["training"] == 0


def test_neighbours_are_shown_and_vote(classes: Classes) -> None:
    classes.run()
    items = classes.items()
    number = next(n for n in asked() if n % 5 == 0 and n % 7)
    rag, tuned, mixed = (items[arm, f"r{number}"] for arm in ("rag", "tuned", "tuned_rag"))
    right = LABELS[number % 3]
    assert (rag["prediction"], tuned["prediction"] != right, mixed["prediction"]) == (right, True, right)
    assert [passage["source"] for passage in mixed["passages"]] == [right] * 4
    assert rag["neighbour_accuracy"] == 1.0
    assert rag["shown"] == 4
    assert tuned["passages"] == []
    prompts = [request.messages for request in classes.scorers[0].asked if f"w{number}x1 " in str(request.messages)]
    assert [len(messages) for messages in prompts] == [2, 10], "a system turn and the text; and four examples"
    assert all(label in prompts[0][0]["content"] for label in LABELS)
    assert prompts[1][-1]["content"] == prompts[0][-1]["content"]


def test_the_vote_of_neighbours_counts_as_much_as_the_spec_says(classes: Classes) -> None:
    spec = classes.spec(arms=["tuned", "tuned_rag"], neighbours={"weight": 0.0})
    report = classes.report(spec)
    figures = [report["arms"][arm]["metrics"]["accuracy"] for arm in ("tuned", "tuned_rag")]
    assert figures[0] == figures[1]
    alone = classes.report(spec.model_copy(update={"neighbours": spec.neighbours.model_copy(update={"weight": 1.0})}))
    assert alone["arms"]["tuned_rag"]["metrics"]["accuracy"] == pytest.approx(
        sum(n % 7 != 0 for n in asked()) / len(asked())
    )
    assert alone["arms"]["tuned"]["metrics"]["accuracy"] == figures[0]
    assert alone["lineage"]["index"]["weight"] == 1.0


def test_a_second_run_asks_nothing_and_gives_the_same_figures(classes: Classes) -> None:
    spec = classes.spec()
    first = classes.report(spec)
    embedded = list(classes.encoder.encoded)
    second = classes.report(spec)
    assert (len(classes.scorers), len(classes.heads)) == (1, 1)
    assert classes.encoder.encoded == embedded
    del first["created_at"], second["created_at"]
    assert first == second


def test_a_run_that_was_cut_off_goes_on_where_it_was(classes: Classes) -> None:
    class Killed(BaseException):
        pass

    spec = classes.spec(arms=["base", "rag"])
    classes.crash = lambda prompt: Killed() if "assistant" in prompt else None
    with pytest.raises(Killed):
        run(spec, classes.world.context, classes.tools)
    log = classes.world.context.dir / "answers" / "base.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:20]) + lines[20][:30])  # killed while it wrote the 21st
    classes.crash = lambda prompt: None
    report = classes.report(spec)
    again = [request for request in classes.scorers[1].asked if "assistant" not in str(request.messages)]
    assert len(again) == len(asked()) - 20
    assert report["arms"]["base"]["n"] == len(asked())


def test_a_text_that_crashes_is_wrong_and_counted_as_failed(classes: Classes) -> None:
    number = next(n for n in asked() if n % 3 == 0)
    classes.crash = lambda prompt: RuntimeError("out of memory") if f"w{number}x1 " in prompt else None
    report = classes.run(arms=["base", "tuned"])
    base = report["arms"]["base"]
    assert base["failures"] == 1
    assert base["metrics"]["accuracy"] == pytest.approx((sum(n % 3 == 0 for n in asked()) - 1) / len(asked()))
    assert classes.items()["base", f"r{number}"]["prediction"] == ""


def test_a_model_that_crashes_on_every_text_fails_the_job(classes: Classes) -> None:
    classes.crash = lambda prompt: RuntimeError("no memory")
    with pytest.raises(TandemError, match="fails on every"):
        classes.run(arms=["base"])


def test_a_text_that_is_too_long_fails_and_one_that_may_be_shortened_does_not(classes: Classes) -> None:
    number = asked()[0]
    long = [replace(row, text=row.text + " more" * 300) if row.id == f"r{number}" else row for row in rows()]
    spec = classes.spec(arms=["base"], train=classes.file(long), engine={"max_model_len": 128})
    assert classes.report(spec)["arms"]["base"]["failures"] == 1
    shortened = classes.spec(
        arms=["base", "tuned"],
        train=classes.file(long),
        engine={"max_model_len": 128},
        classify_prompt={"text_words": 50},
        classifier="artifact:told",
    )
    report = classes.report(shortened)
    assert report["arms"]["base"]["failures"] == 0
    assert "base: of 1 texts the first 50 words were shown." in report["notes"]


def test_a_classifier_that_was_trained_on_what_is_asked_is_found_out(classes: Classes) -> None:
    number = asked()[0]
    seen = {"train_sha256": "other", "train_texts": [text_digest(text_of(number).upper()), "0" * 16]}
    report = classes.run(classifier=classes.classifier(seen), arms=["base", "tuned"])
    assert (report["dataset"]["leaked"], report["dataset"]["n"]) == (1, len(asked()) - 1)
    assert any(f"was trained on 1 of the {len(asked())} texts" in note for note in report["notes"])
    assert any("trained on other rows" in note for note in report["notes"])
    assert report["dataset"]["near_duplicates"]["training"] is None
    assert not any(f"w{number}x1 " in text for text in classes.heads[0].texts)
    assert not any(f"w{number}x1 " in str(request.messages) for request in classes.scorers[0].asked)


def test_a_classifier_whose_checkpoint_was_chosen_by_what_is_asked_is_noted(classes: Classes) -> None:
    train = split_labelled(rows(), None, eval_fraction=0.25, where="").train
    chosen = [text_digest(text_of(number).upper()) for number in asked()[:3]]
    known = {"train_sha256": labelled_sha256(train), "selection_texts": [*chosen, "0" * 16]}
    report = classes.run(classifier=classes.classifier(known))
    assert report["notes"] == [
        f"artifact:told: its checkpoint was chosen by 3 of the {len(asked())} texts, which favours its arms."
    ]


def test_of_an_older_classifier_the_ids_tell(classes: Classes) -> None:
    seen = {"train_sha256": "other", "train_ids": [f"r{asked()[0]}", f"r{asked()[1]}"]}
    assert classes.run(classifier=classes.classifier(seen))["dataset"]["leaked"] == 2


def test_a_classifier_that_saw_everything_is_refused(classes: Classes) -> None:
    seen = {"train_sha256": "other", "train_ids": [row.id for row in rows()]}
    with pytest.raises(DataError, match="were trained on"):
        classes.run(classifier=classes.classifier(seen))


def test_a_classifier_of_which_nothing_is_known_is_noted(classes: Classes) -> None:
    report = classes.run(classifier=classes.classifier({}))
    assert any("a leak can't be ruled out" in note for note in report["notes"])


def test_another_split_than_the_classifiers_is_found_out(classes: Classes) -> None:
    train = split_labelled(rows(), None, eval_fraction=0.25, where="").train
    known = {
        "train_sha256": labelled_sha256(train),
        "train_texts": [text_digest(row.text) for row in train],
    }
    report = classes.run(classifier=classes.classifier(known), eval_fraction=0.5)
    assert report["dataset"]["leaked"] > 0
    # What it never saw is a part of the larger half.
    assert report["dataset"]["n"] == len(asked())


def test_texts_of_a_file_of_their_own(classes: Classes) -> None:
    apart = [LabelledRow(f"e{n}", text_of(n), LABELS[n % 3]) for n in range(1000, 1030)]
    leaked = [LabelledRow("again", text_of(3), LABELS[0])]
    spec = classes.spec(eval=classes.file([*apart, *leaked], "eval.jsonl"), arms=["rag", "tuned"])
    report = classes.report(spec)
    assert report["dataset"]["n"] == 31
    assert any("1 training rows were left out" in note for note in report["notes"])
    assert "r3" not in {passage["id"] for row in classes.items().values() for passage in row["passages"]}


def test_labels_that_the_classifier_does_not_tell_are_refused(classes: Classes) -> None:
    uri = classes.classifier(metrics={"labels": ["art", "sport", "food"]})
    with pytest.raises(ModelError, match="'food' apart, and the rows have 'art', 'sport', 'tech'"):
        classes.run(classifier=uri)


def test_an_adapter_for_questions_is_no_classifier(classes: Classes) -> None:
    with pytest.raises(ModelError, match="trained for generation"):
        classes.run(classifier=classes.classifier(task="generation"))


def test_a_label_that_no_training_row_has_is_refused(classes: Classes) -> None:
    other = [LabelledRow("e1", "something " + text_of(1), "food")]
    with pytest.raises(DataError, match="labels to evaluate on that no training row has: 'food'"):
        classes.run(eval=classes.file(other, "eval.jsonl"))


def test_classifiers_of_several_seeds_are_measured_each(classes: Classes) -> None:
    both = [classes.classifier(name="one"), classes.classifier(name="two")]
    report = classes.run(classifier=both, arms=["base", "tuned"])
    assert report["arms"]["tuned"]["seeds"]["n"] == 2
    assert report["arms"]["base"]["seeds"] is None
    assert len(classes.heads) == 2
    assert [each["uri"] for each in report["lineage"]["trained"]["classifier"]] == both


def test_training_is_paid_for(classes: Classes) -> None:
    report = classes.run(prices={"cpu_hour": 1.5})
    assert {name: arm["cost"]["train"] for name, arm in report["arms"].items()} == {
        "base": 0.0, "rag": 0.0, "tuned": 3.0, "tuned_rag": 3.0,
    }  # fmt: skip
    assert {each["arm"] for each in report["break_even"]} == {"tuned", "tuned_rag"}


def test_shuffled_labels_leave_nothing_to_be_won_by_neighbours(classes: Classes) -> None:
    mixed = [replace(row, label=LABELS[int(text_digest(row.text), 16) % 3]) for row in rows()]
    report = classes.run(train=classes.file(mixed), arms=["base", "rag"], classifier=None)
    assert report["arms"]["rag"]["metrics"]["neighbour_accuracy"] == pytest.approx(1 / 3, abs=0.15)
    assert report["verdict"]["winner"] is None


def test_arms_without_neighbours_embed_nothing(classes: Classes) -> None:
    report = classes.run(arms=["base", "tuned"])
    assert classes.encoder.encoded == []
    assert report["lineage"]["index"] == {}


def test_a_limit_asks_fewer_and_always_the_same(classes: Classes) -> None:
    spec = classes.spec(limit=20, arms=["base"], classifier=None)
    first, again = (classes.report(spec)["dataset"] for _ in range(2))
    assert (first["n"], first["available"]) == (20, len(asked()))
    assert first["split_sha256"] == again["split_sha256"]


def test_a_budget_is_shared_out_by_label(classes: Classes) -> None:
    many = rows(600)
    classes.world.seconds = 1.0
    spec = classes.spec(train=classes.file(many), arms=["base"], classifier=None, budget_s=99)
    report = classes.report(spec)
    assert (report["dataset"]["n"], report["dataset"]["available"]) == (99, 150)
    assert {value: arms["base"]["n"] for value, arms in report["slices"]["label"].items()} == dict.fromkeys(LABELS, 33)
    assert "99 of 150 texts were asked, as many as fit into 99 s." in report["notes"]
