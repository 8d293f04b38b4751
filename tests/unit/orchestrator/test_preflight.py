from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tandem.orchestrator.preflight import absolute, changed_at, inputs, missing_inputs
from tandem.specs import KINDS


def canonical(**data: Any) -> dict[str, Any]:
    return KINDS[data["kind"]].model_validate(data).canonical()


def test_relative_paths_become_absolute_and_other_uris_stay(tmp_path: Path) -> None:
    spec = canonical(kind="index", name="i", sources=["docs", "file:more", "pypi:x==1/y#sha256=0", "/abs"])
    assert [value for place, value in inputs(absolute(spec, tmp_path)) if place.startswith("sources")] == [
        f"{tmp_path}/docs",
        f"{tmp_path}/more",
        "pypi:x==1/y#sha256=0",
        "/abs",
    ]
    assert spec["sources"][0]["uri"] == "docs"
    finetune = canonical(kind="finetune", name="f", model="hf:a/b", data={"train": "rows.jsonl"}, deepspeed="ds.json")
    assert dict(inputs(absolute(finetune, tmp_path))) == {
        "model": "hf:a/b",
        "data.train": f"{tmp_path}/rows.jsonl",
        "deepspeed": f"{tmp_path}/ds.json",
    }


def test_a_zero_stage_is_no_path(tmp_path: Path) -> None:
    spec = canonical(kind="finetune", name="f", model="hf:a/b", data={"train": "rows.jsonl"}, deepspeed=3)
    assert absolute(spec, tmp_path)["deepspeed"] == 3


def test_every_missing_input_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("")
    spec = canonical(kind="index", name="i", sources=["empty", "nope"], embedder={"model": "model"})
    faults = missing_inputs(absolute(spec, tmp_path), where="index.yaml")
    assert [str(fault) for fault in faults] == [
        f"index.yaml: sources.0.uri: an empty folder: {tmp_path}/empty (put documents into it, or name another)",
        f"index.yaml: sources.1.uri: no such file or folder: {tmp_path}/nope "
        "(check the path; it is relative to the current folder)",
        f"index.yaml: embedder.model: a model path without weights: {tmp_path}/model "
        "(it needs config.json and *.safetensors, or a .gguf file)",
    ]
    spec = canonical(kind="compare", name="c", model="model", eval="rows.jsonl", collection="x", raft_adapter="model")
    faults = missing_inputs(absolute(spec, tmp_path), where="c.yaml")
    assert [fault.what.split(":")[0] for fault in faults] == [
        "a model path without weights",
        "an adapter path without weights",
        "an empty file",
    ]


@pytest.mark.parametrize(
    "files", [("config.json", "model.safetensors"), ("m.gguf",), ("modules.json", "0/model.safetensors")]
)
def test_what_counts_as_weights(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_text("x")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    spec = canonical(kind="compare", name="c", model="model", eval="rows.jsonl", collection="x")
    assert missing_inputs(absolute(spec, tmp_path), where="c.yaml") == []


def test_a_classifier_may_learn_from_a_folder_of_texts_per_label(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    (tmp_path / "set" / "good").mkdir(parents=True)
    spec = canonical(kind="finetune", name="f", task="classification", model="model", data={"train": "set"})
    faults = missing_inputs(absolute(spec, tmp_path), where="f.yaml")
    assert [fault.what.split(":")[0] for fault in faults] == ["no file of rows here"]
    (tmp_path / "set" / "good" / "1.txt").write_text("a good film")
    assert missing_inputs(absolute(spec, tmp_path), where="f.yaml") == []


def test_rows_may_be_a_glob_a_folder_or_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.jsonl").write_text("{}\n")
    data = {"train": "shards/*.jsonl", "eval": "s3://bucket/eval.parquet"}
    spec = absolute(canonical(kind="finetune", name="f", model="hf:a/b", data=data), tmp_path)
    assert spec["data"]["eval"] == "s3://bucket/eval.parquet"
    assert missing_inputs(spec, where="f.yaml") == []
    spec = absolute(canonical(kind="finetune", name="f", model="hf:a/b", data={"train": "none/*.csv"}), tmp_path)
    assert [fault.what for fault in missing_inputs(spec, where="f.yaml")] == [
        f"no file of rows here: {tmp_path}/none/*.csv"
    ]


def test_when_the_files_of_a_spec_last_changed(tmp_path: Path) -> None:
    def at(seconds: float, *names: str) -> None:
        for name in names:
            os.utime(tmp_path / name, (seconds, seconds))

    (tmp_path / "docs" / "deep").mkdir(parents=True)
    for name in ("docs/a.md", "docs/deep/b.md", "other.md"):
        (tmp_path / name).write_text("text")
    at(100, "docs", "docs/deep", "docs/a.md", "other.md")
    at(200, "docs/deep/b.md")
    spec = {"kind": "index", "sources": [{"uri": str(tmp_path / "docs")}], "embedder": {"model": "hf:a/b"}}
    assert changed_at(spec) == 200
    # What is taken out changes the folder that it was in.
    (tmp_path / "docs/deep/b.md").unlink()
    at(300, "docs/deep")
    assert changed_at(spec) == 300
    train = {"kind": "finetune", "model": "hf:a/b", "data": {"train": str(tmp_path / "docs/*.md")}, "deepspeed": 2}
    assert changed_at(train) == 300
    assert changed_at({**train, "data": {"train": str(tmp_path / "other.md")}}) == 100
    for uri in ("s3://bucket/x", "${docs.artifact}", str(tmp_path / "nowhere")):
        assert changed_at({**train, "data": {"train": uri}}) is None


def test_of_a_pipeline_the_inputs_of_every_step_are_looked_at(tmp_path: Path) -> None:
    train = {"kind": "finetune", "model": "${a.model}", "data": {"train": "rows.jsonl"}}
    pipeline = {"kind": "pipeline", "steps": {"a": {"spec": {**train, "model": "model"}}, "b": {"spec": train}}}
    whole = absolute(pipeline, tmp_path)
    assert whole["steps"]["a"]["spec"]["model"] == str(tmp_path / "model")
    # What another step makes isn't there yet.
    assert whole["steps"]["b"]["spec"]["model"] == "${a.model}"
    places = [str(fault.where) for fault in missing_inputs(whole, where="p.yaml")]
    assert places == ["p.yaml: step a: model", "p.yaml: step a: data.train", "p.yaml: step b: data.train"]


def test_a_comparison_of_classifiers_names_rows_and_classifiers(tmp_path: Path) -> None:
    (tmp_path / "set" / "good").mkdir(parents=True)
    (tmp_path / "told").mkdir()
    spec = canonical(
        kind="compare",
        task="classification",
        name="c",
        model="hf:a/b",
        arms=["base", "tuned"],
        classifier=["told", "artifact:other"],
        train="set",
        eval="rows.csv",
        neighbours={"embedder": {"model": "embedder"}},
    )
    whole = absolute(spec, tmp_path)
    assert whole["classifier"] == [f"{tmp_path}/told", "artifact:other"]
    assert whole["neighbours"]["embedder"]["model"] == f"{tmp_path}/embedder"
    assert [str(fault.where) for fault in missing_inputs(whole, where="c.yaml")] == [
        "c.yaml: classifier.0",
        "c.yaml: train",
        "c.yaml: eval",
        "c.yaml: neighbours.embedder.model",
    ]
    for path in ("set/good/1.txt", "told/adapter_model.safetensors", "rows.csv", "embedder/modules.json"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("text,label\n")
    (tmp_path / "embedder" / "model.safetensors").write_text("x")
    assert missing_inputs(whole, where="c.yaml") == []
