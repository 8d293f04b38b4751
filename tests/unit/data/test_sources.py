from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tandem.data.rows import scan_training
from tandem.data.sources import DataFile, list_data_files
from tandem.errors import DataError

ROWS = [{"question": f"q{n}", "answers": [f"a{n}"]} for n in range(5)]


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "deep/er/d.csv", ".hidden.jsonl", "_tmp/e.jsonl", "readme.txt"):
        write(tmp_path / "shards" / name)
    return tmp_path / "shards"


def names(uri: str, folder: Path) -> list[str]:
    return [Path(file.name).relative_to(folder).as_posix() for file in list_data_files(uri)]


def test_a_folder_is_every_file_of_rows_below_it_in_order(shards: Path) -> None:
    assert names(str(shards), shards) == ["a.jsonl", "b.jsonl", "deep/c.jsonl", "deep/er/d.csv"]
    assert names(f"file:{shards}", shards) == names(str(shards), shards) == names(f"file://{shards}", shards)


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "b.jsonl", "deep/c.jsonl"]),
        ("deep/**/*", ["deep/c.jsonl", "deep/er/d.csv"]),
        ("?.jsonl", ["a.jsonl", "b.jsonl"]),
        ("d*/*.jsonl", ["deep/c.jsonl"]),
    ],
)
def test_a_glob_is_what_matches_it(shards: Path, glob: str, found: list[str]) -> None:
    assert names(f"{shards}/{glob}", shards) == found


@pytest.mark.parametrize("missing", ["none.jsonl", "none/*.jsonl", "deep/*.parquet"])
def test_nothing_there_is_an_error(shards: Path, missing: str) -> None:
    with pytest.raises(DataError, match=r"no such file|no file of rows"):
        list_data_files(str(shards / missing))


@pytest.fixture
def memory() -> Iterator[Any]:
    """A filesystem that isn't this machine's: fsspec's in memory, which pyarrow reaches as any object store."""
    import fsspec

    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_files_on_another_filesystem_are_read_as_those_here(memory: Any, tmp_path: Path) -> None:
    text = write(tmp_path / "a.jsonl").read_text()
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    lines = "".join(f'{row["question"]},"[""{row["answers"][0]}""]"\n' for row in ROWS)
    contents = {
        "b.jsonl": text.encode(),
        "c.parquet": sink.getvalue().to_pybytes(),
        "d.csv": f"question,answers\n{lines}".encode(),
    }
    for name, content in contents.items():
        memory.pipe_file(f"/bucket/{name}", content)
    files = list_data_files("fsspec+memory://bucket/*")
    assert [file.name for file in files] == [f"fsspec+memory://bucket/{name}" for name in contents]
    assert [file.size for file in files] == [len(content) for content in contents.values()]
    expected = [row for _, _, row in scan_training(DataFile.local(tmp_path / "a.jsonl"))]
    for file in [
        *files,
        *list_data_files("fsspec+memory://bucket/b.jsonl"),
        *list_data_files("fsspec+memory://bucket"),
    ]:
        assert [row for _, _, row in scan_training(file)] == expected


@pytest.mark.parametrize("uri", ["fsspec+memory://nothing/here", "teapot://a/b.jsonl"])
def test_another_filesystem_that_has_nothing_or_does_not_exist_is_an_error(memory: Any, uri: str) -> None:
    with pytest.raises(DataError):
        list_data_files(uri)
