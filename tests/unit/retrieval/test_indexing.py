from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.data.documents import Document
from tandem.errors import DataError
from tandem.retrieval.indexing import document_tenant, gather_files, identity_settings, plan_changes
from tandem.specs.index import ChunkSpec, IndexSpec, SourceSpec


def test_only_what_is_missing_is_embedded_and_what_is_gone_is_deleted() -> None:
    plan = plan_changes(["a", "b", "c"], ["b", "c", "z", "y"])
    assert (plan.embed, plan.delete, plan.keep) == (frozenset({"a"}), ("y", "z"), 2)
    again = plan_changes(["a", "b", "c"], ["a", "b", "c"])
    assert (again.embed, again.delete) == (frozenset(), ())


def test_two_files_of_one_name_are_a_fault_and_the_same_file_twice_is_not(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "readme.md").write_text("x")
    source = SourceSpec(uri="x")
    files, faults = gather_files([(source, tmp_path / "a"), (source, tmp_path / "a"), (source, tmp_path / "b")])
    assert [file.path for file in files] == [str(tmp_path / "a" / "readme.md")]
    (fault,) = faults
    assert fault.file == str(tmp_path / "b" / "readme.md")
    assert "common folder" in fault.reason


def test_a_document_without_the_tenant_field_is_refused_and_not_shown_to_all() -> None:
    document = Document("i", "s", "t", "x", {"team": "red", "number": 7, "empty": " "})
    assert document_tenant(document, "team") == "red"
    assert document_tenant(document, "number") == "7"
    assert document_tenant(document, None) is None
    for field in ("owner", "empty"):
        with pytest.raises(DataError, match="no tenant"):
            document_tenant(document, field)


def test_whatever_changes_what_is_stored_changes_the_identity() -> None:
    spec = IndexSpec(kind="index", name="a", sources=("x",))  # type: ignore[arg-type]
    same = IndexSpec(kind="index", name="b", collection="c", sources=("y",))  # type: ignore[arg-type]
    assert identity_settings(spec, "e") == identity_settings(same, "e")
    others = [spec.model_copy(update={"sparse": False}), spec.model_copy(update={"chunk": ChunkSpec(tokens=64)})]
    different = {
        identity_settings(spec, "e"),
        identity_settings(spec, "f"),
        *(identity_settings(o, "e") for o in others),
    }
    assert len(different) == 4
    assert json.dumps(sorted(different))
