"""A spec file's faults are found all at once, each with its line and a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.errors import InvalidSpecError, SpecError
from tandem.specs import CompareSpec, FinetuneSpec, IndexSpec
from tandem.specs.loading import load_serve_config, load_spec, validate_file

INDEX = "kind: index\nname: docs\nsources:\n  - docs\n"


def write(folder: Path, text: str, name: str = "spec.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_fault_at_once_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "kind: finetune\nname: Bad_Name\nmodel: m\ndata:\n  train: a\n  evall: b\nschedule:\n  epochs: many\n",
    )
    faults = [str(error) for error in validate_file(path)]
    assert len(faults) == 3
    assert any(f.startswith(f"{path}:2: name: string should match") for f in faults)
    assert any(f.startswith(f"{path}:6: data.evall: unknown key") and "did you mean 'eval'?" in f for f in faults)
    assert any(f.startswith(f"{path}:8: schedule.epochs: input should be a valid number") for f in faults)


def test_overrides_are_yaml_and_named_in_errors(tmp_path: Path) -> None:
    path = write(tmp_path, INDEX)
    spec = load_spec(path, ["chunk.tokens=200", "sources=[a, b]", "sparse=false"])
    assert isinstance(spec, IndexSpec)
    assert (spec.chunk.tokens, [s.uri for s in spec.sources], spec.sparse) == (200, ["a", "b"], False)
    (fault,) = validate_file(path, ["chunk.tokens=none-at-all"])
    assert str(fault).startswith("command line: chunk.tokens:")
    (fault,) = validate_file(path, ["tokens"])
    assert "not key=value" in str(fault)


@pytest.mark.parametrize(
    ("text", "uri", "include"),
    [
        ("docs", "docs", ("**/*",)),
        ("docs/*.md", "docs", ("*.md",)),
        ("s3://bucket/handbook/**/*.pdf", "s3://bucket/handbook", ("**/*.pdf",)),
        ("/a/v?/x.txt", "/a", ("v?/x.txt",)),
    ],
)
def test_a_source_may_be_a_glob(tmp_path: Path, text: str, uri: str, include: tuple[str, ...]) -> None:
    spec = load_spec(write(tmp_path, INDEX), [f"sources=['{text}']"])
    assert isinstance(spec, IndexSpec)
    assert [(each.uri, each.include) for each in spec.sources] == [(uri, include)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: inde\n", "no spec is of kind 'inde'"),
        ("name: x\n", "`kind` is missing"),
        ("- a\n", "not a mapping"),
        ("kind: index\n bad: [", "not YAML"),
        ("kind: index\nkind: index\n", "this key stands twice"),
    ],
)
def test_what_is_no_spec_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    (fault,) = validate_file(write(tmp_path, text))
    assert said in str(fault)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.yaml: no such file"):
        load_spec(tmp_path / "nowhere.yaml")


def test_arms_need_their_adapters(tmp_path: Path) -> None:
    text = "kind: compare\nname: c\nmodel: m\neval: e.jsonl\ncollection: docs\narms: [base, raft]\n"
    with pytest.raises(InvalidSpecError, match="'raft' needs 'raft_adapter'"):
        load_spec(write(tmp_path, text))
    spec = load_spec(write(tmp_path, text + "raft_adapter: artifact:a\n"))
    assert isinstance(spec, CompareSpec)


def test_batch_must_divide_over_workers(tmp_path: Path) -> None:
    text = "kind: finetune\nname: f\nmodel: m\ndata: {train: t}\nworkers: 3\n"
    with pytest.raises(InvalidSpecError, match="micro_batch_size × workers = 12"):
        load_spec(write(tmp_path, text))


def test_numbers_as_yaml_writes_them(tmp_path: Path) -> None:
    text = "kind: finetune\nname: f\nmodel: m\ndata: {train: t}\nschedule: {learning_rate: 2e-4}\n"
    spec = load_spec(write(tmp_path, text))
    assert isinstance(spec, FinetuneSpec)
    assert spec.schedule.learning_rate == pytest.approx(2e-4)


def test_equal_specs_have_equal_digests(tmp_path: Path) -> None:
    short = load_spec(write(tmp_path, INDEX))
    long = load_spec(write(tmp_path, INDEX + "sparse: true\nchunk: {tokens: 160}\n", "long.yaml"))
    other = load_spec(write(tmp_path, INDEX + "sparse: false\n", "other.yaml"))
    assert short.digest() == long.digest() != other.digest()


def test_serve_config_faults_have_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "applications:\n  - name: rag\n    import_path: tandem.serving.app:build\n    args:\n      kind: rag\n"
        "      name: r\n      model: m\n      retriever:\n        collection: docs\n        topk: 3\n",
    )
    (fault,) = validate_file(path)
    assert str(fault).startswith(f"{path}:10: applications.0.args.retriever.topk: unknown key 'topk'")
    path.write_text(path.read_text().replace("topk", "top_k"))
    assert load_serve_config(path).specs["rag"].retriever.top_k == 3


def test_errors_survive_pickling(tmp_path: Path) -> None:
    import pickle

    with pytest.raises(InvalidSpecError) as caught:
        load_spec(write(tmp_path, "kind: index\nname: docs\nsource: []\n"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert [str(e) for e in copy.errors] == [str(e) for e in caught.value.errors]
    assert copy.errors[0].remedy == caught.value.errors[0].remedy
