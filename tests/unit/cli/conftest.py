from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_ins.shell import FakeServe, Shell
from stand_ins.world import World, make_cluster

from tandem.cli.client import Client
from tandem.config.cluster import STORAGE_VARIABLE
from tandem.orchestrator.records import Records


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    storage = tmp_path / "storage"
    storage.mkdir()
    cluster = make_cluster(storage)
    cluster.save()
    world = World(cluster, Records(cluster.database_url, clock=lambda: world.now))
    made = Shell(world, FakeServe())
    monkeypatch.setenv(STORAGE_VARIABLE, str(storage))
    monkeypatch.setattr(Client, "connect", classmethod(lambda _: made.client()))
    monkeypatch.chdir(tmp_path)
    yield made
    world.records.close()


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("# A\n\nThe port is 42.\n")
    return folder


@pytest.fixture
def index_file(tmp_path: Path, docs: Path) -> Path:
    path = tmp_path / "index.yaml"
    path.write_text(f"kind: index\nname: docs\nsources: [{docs}]\n")
    return path
