"""A working directory has the files that Ray's own packaging would take, and a hash of their content alone."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from tandem.cli.working_dir import DEFAULT_EXCLUDES, look, packed
from tandem.errors import SpecError
from tandem.orchestrator.packages import MAX_PACKAGE_BYTES

FILES = {
    "train.py": "1",
    "data/rows.jsonl": "{}",
    "data/raw.bin": "x",
    "build/out.o": "x",
    "deep/a/b/keep.txt": "1",
    "deep/a/b/drop.tmp": "1",
    "deep/a/secret.env": "1",
    ".git/config": "x",
    "pkg/__pycache__/m.pyc": "x",
    "pkg/m.py": "1",
    "venv/bin/python": "x",
    "logs/keep.log": "1",
    "logs/other.log": "1",
    ".gitignore": "*.bin\nbuild/\nlogs/*\n!logs/keep.log\n",
    ".rayignore": "*.tmp\n",
    "deep/.rayignore": "/a/secret.env\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    for name, text in FILES.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def names(folder: Path) -> list[str]:
    return [name for name, _ in look(folder).files]


@pytest.mark.parametrize("ignore_gitignore", ["0", "1"])
def test_it_holds_what_rays_own_package_holds(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignore_gitignore: str
) -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", ignore_gitignore)
    assert get_runtime_env_default_excludes() == DEFAULT_EXCLUDES.split(",")
    (folder / "linked").symlink_to(folder / "data")
    create_package(
        str(folder), tmp_path / "rays.zip", include_gitignore=ignore_gitignore == "0",
        excludes=get_runtime_env_default_excludes(),
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "rays.zip") as rays:
        assert names(folder) == sorted(name for name in rays.namelist() if not name.endswith("/"))


def test_its_limit_is_rays() -> None:
    from ray._private.ray_constants import GRPC_CPP_MAX_MESSAGE_SIZE

    assert MAX_PACKAGE_BYTES == GRPC_CPP_MAX_MESSAGE_SIZE


def test_its_hash_is_of_names_and_content_alone(folder: Path) -> None:
    with packed(look(folder)) as (first, file):
        archive = zipfile.ZipFile(file)
        assert "working_dir/data/rows.jsonl" in archive.namelist()
        assert archive.read("working_dir/train.py") == b"1"
    os.utime(folder / "train.py", (1, 1))
    (folder / "build" / "more.o").write_text("left out")
    with packed(look(folder)) as (second, _):
        assert second == first
    (folder / "train.py").write_text("2")
    with packed(look(folder)) as (third, _):
        assert third != first


def test_a_link_to_a_folder_above_comes_to_an_end(folder: Path) -> None:
    (folder / "deep" / "up").symlink_to(folder)
    assert "train.py" in names(folder)


def test_what_is_too_large_is_refused_with_its_largest_files(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(3 * 2**20)
    with pytest.raises(
        SpecError, match=r"has 3 MiB, Ray takes 2 MiB; the largest files: model.safetensors \(3 MiB\), "
    ):
        look(folder, limit=2 * 2**20)
    with (folder / "huge.bin").open("wb") as file:
        file.truncate(MAX_PACKAGE_BYTES)
    # It is left out, and nothing of it is read.
    look(folder)


@pytest.mark.parametrize(("name", "said"), [("nowhere", "no such folder"), ("train.py", "no such folder")])
def test_no_folder(folder: Path, name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        look(folder / name)


def test_a_folder_of_which_nothing_travels(folder: Path) -> None:
    (folder / ".rayignore").write_text("*\n")
    with pytest.raises(SpecError, match=r"nothing in .* travels"):
        look(folder)
