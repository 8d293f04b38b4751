"""A pipeline's steps meet where they say that they do, and every fault is found at once, with its file and line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tandem.errors import InvalidSpecError
from tandem.specs import FinetuneSpec, IndexSpec, PipelineSpec
from tandem.specs.loading import load_spec, validate_file

DATA: dict[str, Any] = {
    "kind": "pipeline",
    "name": "all",
    "steps": {
        "compare": {
            "spec": {
                "kind": "compare",
                "name": "c",
                "model": "${tune.model}",
                "eval": "/e.jsonl",
                "collection": "${docs.collection}",
                "arms": ["base", "raft"],
                "raft_adapter": "${tune.artifact}",
            }
        },
        "docs": {"spec": {"kind": "index", "name": "docs", "sources": ["/d"]}},
        "tune": {
            "needs": ["docs"],
            "spec": {"kind": "finetune", "name": "t", "model": "hf:a/b", "data": {"train": "/t.jsonl"}},
        },
    },
}


def spec(**steps: Any) -> PipelineSpec:
    data = copy.deepcopy(DATA)
    for name, change in steps.items():
        data["steps"][name] = {**data["steps"].get(name, {}), **change}
    return PipelineSpec.model_validate(data)


def faults(data: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        PipelineSpec.model_validate(data)
    return {".".join(map(str, each["loc"])): each["msg"] for each in caught.value.errors()}


def test_a_reference_is_a_need_and_stands_for_what_the_other_step_says() -> None:
    made = spec()
    assert {name: step.needs for name, step in made.steps.items()} == {
        "compare": ("docs", "tune"), "docs": (), "tune": ("docs",)
    }  # fmt: skip
    compare = made.steps["compare"].spec.canonical()
    assert (compare["collection"], compare["model"]) == ("docs", "hf:a/b")
    # What made it is known when it runs.
    assert compare["raft_adapter"] == "${tune.artifact}"
    named = spec(docs={"spec": {"kind": "index", "name": "docs", "sources": ["/d"], "collection": "handbook"}})
    assert named.steps["compare"].spec.canonical()["collection"] == "handbook"


def test_equal_pipelines_have_equal_digests_however_their_steps_are_queued() -> None:
    plain = spec()
    assert PipelineSpec.model_validate(plain.canonical()) == plain
    told = spec(compare={"needs": ["tune", "docs"]})
    assert told.digest() == plain.digest()
    queued = PipelineSpec.model_validate({**DATA, "queue": {"priority": 3}})
    assert queued.digest() == plain.digest()
    assert spec(tune={"needs": []}).digest() != plain.digest()


def test_steps_wait_as_the_pipeline_says_unless_they_say_it_themselves() -> None:
    data = copy.deepcopy(DATA) | {"queue": {"priority": 3, "project": "nlp"}}
    data["steps"]["tune"]["spec"]["queue"] = {"priority": 9}
    made = PipelineSpec.model_validate(data)
    queues = {name: (step.spec.queue.priority, step.spec.queue.project) for name, step in made.steps.items()}
    assert queues == {"compare": (3, "nlp"), "docs": (3, "nlp"), "tune": (9, "nlp")}


def test_every_fault_of_the_graph_at_once() -> None:
    data = copy.deepcopy(DATA)
    steps = data["steps"]
    steps["docs"]["needs"] = ["doks", "docs"]
    steps["tune"]["spec"] |= {"model": "${docs.model}", "name": "docs", "epochs": 3}
    steps["compare"]["spec"] |= {
        "eval": "${compare.artifact}",
        "collection": "${nobody.collection}",
        "model": "${tune}",
    }
    steps["last"] = {"spec": {"kind": "publish", "name": "all"}}
    found = faults(data)
    assert found["steps.docs.needs.0"] == "there is no step 'doks': did you mean 'docs'?"
    assert found["steps.docs.needs.1"] == "a step can't need itself"
    assert found["steps.tune.spec.model"] == (
        "${docs.model}: a step of kind index hands on ${docs.artifact}, ${docs.collection} alone"
    )
    assert found["steps.tune.spec.name"].startswith("step 'docs' has this name too")
    assert found["steps.tune.spec.epochs"] == "Extra inputs are not permitted"
    assert found["steps.compare.spec.eval"] == "${compare.artifact}: a step can't need itself"
    # That it is no name of a collection either needn't be said.
    assert found["steps.compare.spec.collection"].startswith("${nobody.collection}: there is no step 'nobody'; there")
    assert found["steps.compare.spec.model"].startswith("${tune}: a step of kind finetune hands on ${tune.artifact}, ")
    assert found["steps.last.spec.kind"] == "a step is of kind index, finetune, compare, promote"
    assert found["steps.last.spec.name"].startswith("the pipeline has this name too")
    assert len(found) == 10


def test_a_ring_is_named() -> None:
    data = copy.deepcopy(DATA)
    data["steps"]["docs"]["needs"] = ["compare"]
    (said,) = faults(data).values()
    assert said.startswith("needs itself: ")
    assert set(said.removeprefix("needs itself: ").split(" needs ")) >= {"docs", "compare"}


@pytest.mark.parametrize("steps", [None, {}, [], {"a": None}, {"a": {}}, {"a": {"spec": 3}}, {"a": {"needs": 3}},
                                   {"a": {"spec": {"kind": "index"}, "needs": [3, None]}}, {3: {"spec": {}}},
                                   {"a": {"file": "x.yaml", "spec": DATA["steps"]["docs"]["spec"]}}])  # fmt: skip
def test_what_is_no_pipeline_is_refused_and_breaks_nothing(steps: Any) -> None:
    assert faults({"kind": "pipeline", "name": "p", "steps": steps})


def test_a_file_stands_for_a_spec_and_the_spec_beside_it_for_what_is_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.yaml").write_text("kind: index\nname: docs\nsources: [d]\nchunk: {tokens: 99, overlap: 9}\n")
    (tmp_path / "p.yaml").write_text(
        "kind: pipeline\nname: p\nsteps:\n  docs:\n    file: docs.yaml\n    spec: {chunk: {tokens: 50}}\n"
        "  tune:\n    spec:\n      kind: finetune\n      name: t\n      model: m\n      data: {train: t}\n"
        "      retrieval:\n        collection: ${docs.collection}\n"
    )
    made = load_spec(Path("p.yaml"), ["steps.tune.spec.schedule.epochs=5", "steps.docs.spec.sparse=false"])
    assert isinstance(made, PipelineSpec)
    docs, tune = (made.steps[name].spec for name in ("docs", "tune"))
    assert isinstance(docs, IndexSpec)
    assert isinstance(tune, FinetuneSpec)
    assert (docs.chunk.tokens, docs.chunk.overlap, docs.sparse, tune.schedule.epochs) == (50, 9, False, 5)
    assert tune.retrieval is not None
    assert (tune.retrieval.collection, made.steps["tune"].needs) == ("docs", ("docs",))
    # Where it stood is no part of what it is.
    assert "file" not in made.canonical()["steps"]["docs"]
    assert PipelineSpec.model_validate(made.canonical()).digest() == made.digest()


def test_a_fault_is_told_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.yaml").write_text("kind: index\nname: docs\nsources: [d]\nchunk: {tokens: 99, overlp: 9}\n")
    (tmp_path / "broken.yaml").write_text("kind: index\n a: [")
    (tmp_path / "p.yaml").write_text(
        "kind: pipeline\nname: p\nsteps:\n  docs:\n    file: docs.yaml\n    spec:\n      chunk: {tokens: 1}\n"
        "  gone: {file: nowhere.yaml}\n"
        "  broken: {file: broken.yaml}\n"
        "  none: {}\n"
        "  tune:\n    needs: [dogs]\n    spec:\n      kind: finetune\n      name: t\n      model: ${dcos.model}\n"
        "      data: {trainn: t}\n"
        "tpyo: 1\n"
    )
    said = [str(fault) for fault in validate_file(Path("p.yaml"), ["steps.tune.spec.schedule.epochs=many", "x"])]
    for start in (
        "docs.yaml:4: chunk.overlp: unknown key 'overlp' (did you mean 'overlap'?)",
        "p.yaml:7: steps.docs.spec.chunk.tokens: input should be greater than or equal to 16",
        "p.yaml:8: steps.gone.file: no such file: nowhere.yaml",
        "broken.yaml:2: not YAML",
        "p.yaml:10: steps.none: needs a spec (give its `spec`, or a `file`)",
        "p.yaml:12: steps.tune.needs.0: there is no step 'dogs': did you mean 'docs'?",
        "p.yaml:16: steps.tune.spec.model: ${dcos.model}: there is no step 'dcos': did you mean 'docs'?",
        "p.yaml:17: steps.tune.spec.data.trainn: unknown key 'trainn' (did you mean 'train'?)",
        "p.yaml:17: steps.tune.spec.data.train: is required and missing",
        "p.yaml:18: tpyo: unknown key 'tpyo'",
        "command line: steps.tune.spec.schedule.epochs: input should be a valid number",
        "x: not key=value",
    ):
        assert [line for line in said if line.startswith(start)], start
    assert len(said) == 12
    with pytest.raises(InvalidSpecError):
        load_spec(Path("p.yaml"))
