from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_ins.shell import Shell
from unit.retrieval.test_catalog import FIRST, SECOND, build

from tandem.cli import index_commands
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.store import Point


@pytest.fixture
def store(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EdgeStore]:
    cluster = shell.world.cluster
    store = EdgeStore(tmp_path / "index")
    for collection in (FIRST, SECOND):
        build(store, cluster.storage, collection)
        store.set_alias("docs", collection)
    ids = [f"00000000-0000-0000-0000-{number:012d}" for number in range(30)]
    store.upsert(SECOND, [Point(id, [number + 1.0, 1.0], None, {}) for number, id in enumerate(ids)])
    monkeypatch.setattr(index_commands, "_store", lambda: (cluster, store))
    yield store
    store.close()


def test_list_check_and_the_way_back(shell: Shell, store: EdgeStore) -> None:
    assert shell("index", "ls").stdout.splitlines()[0].split("\t")[:4] == ["docs", SECOND, "now", "30"]
    checked = shell("index", "check", "docs", "--top-k", "3", "--json")
    assert checked.exit_code == 0
    body = json.loads(checked.stdout)
    assert (body["points"], body["questions"], body["good"]) == (30, 30, True)
    assert "nothing to set" in shell("index", "check", "docs", "--top-k", "3").stderr
    assert shell("index", "rollback", "docs").stdout.startswith(f"docs: {FIRST}, snapshot of docs-0000")
    assert json.loads(shell("index", "ls", "--json").stdout)[0]["collection"] == FIRST


def test_what_cannot_be_done_is_one_line(shell: Shell, store: EdgeStore) -> None:
    for arguments in (("check", "none"), ("rollback", "none"), ("check", "docs", "--top-k", "50")):
        result = shell("index", *arguments)
        assert result.exit_code == 2 if "50" in arguments else 1
        assert len(result.stderr.strip().splitlines()) == 1
