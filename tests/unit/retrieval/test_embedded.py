from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from unit.retrieval.contract import COLLECTION, StoreContract, ident, point

from tandem.errors import StoreError
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.store import Point, Query


class TestEdgeStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[EdgeStore]:
        store = EdgeStore(tmp_path / "index")
        yield store
        store.close()

    def test_everything_is_there_after_reopening(self, store: EdgeStore, tmp_path: Path) -> None:
        store.create_collection(COLLECTION, dimension=4, sparse=True)
        store.upsert(COLLECTION, [point("cat"), point("owl")])
        store.set_alias("current", COLLECTION)
        store.close()
        again = EdgeStore(tmp_path / "index")
        assert again.collections() == [COLLECTION]
        assert again.count("current", tenant=None, filter=None) == 2
        assert again.count(COLLECTION, tenant="red", filter=None) == 1
        again.close()

    def test_a_second_owner_is_refused(self, store: EdgeStore, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="one process owns an index at a time"):
            EdgeStore(tmp_path / "index")
        store.create_collection(COLLECTION, dimension=4, sparse=True)
        with ThreadPoolExecutor(1) as thread:
            second = thread.submit(EdgeStore, tmp_path / "index", 60)
            store.close()
            assert second.result().collections() == [COLLECTION]
            second.result().close()

    def test_a_collection_that_cannot_be_opened_is_the_only_one(self, store: EdgeStore, tmp_path: Path) -> None:
        for name in (COLLECTION, "other"):
            store.create_collection(name, dimension=4, sparse=True)
            store.upsert(name, [point("cat")])
        store.set_alias("current", COLLECTION)
        store.close()
        shard = tmp_path / "index" / COLLECTION / "shard"
        shard.rename(shard.with_name("elsewhere"))
        again = EdgeStore(tmp_path / "index")
        assert again.count("other", tenant=None, filter=None) == 1
        for name in (COLLECTION, "current"):
            with pytest.raises(StoreError, match="can't be opened"):
                again.count(name, tenant=None, filter=None)
        # Mended, it is found at once.
        shard.with_name("elsewhere").rename(shard)
        assert again.count("current", tenant=None, filter=None) == 1
        again.close()

    def test_a_collection_that_cannot_be_opened_can_be_dropped(self, store: EdgeStore, tmp_path: Path) -> None:
        store.create_collection(COLLECTION, dimension=4, sparse=True)
        store.close()
        shutil.rmtree(tmp_path / "index" / COLLECTION / "shard")
        again = EdgeStore(tmp_path / "index")
        again.drop_collection(COLLECTION)
        assert again.collections() == []
        again.close()

    def test_a_creation_cut_short_leaves_no_collection(self, store: EdgeStore, tmp_path: Path) -> None:
        (tmp_path / "index" / COLLECTION / "shard").mkdir(parents=True)
        (tmp_path / "index" / COLLECTION / "shard" / "edge_config.json").write_text("{")
        assert store.collections() == []
        store.create_collection(COLLECTION, dimension=4, sparse=True)
        assert store.count(COLLECTION, tenant=None, filter=None) == 0

    def test_the_graph_finds_what_a_full_scan_finds(self, store: EdgeStore) -> None:
        generator = np.random.default_rng(0)
        centres = generator.normal(size=(50, 32))
        vectors = (centres[generator.integers(50, size=5000)] + 0.5 * generator.normal(size=(5000, 32))).astype(
            "float32"
        )
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        store.create_collection("many", dimension=32, sparse=False)
        store.upsert("many", [Point(ident(str(n)), vector, None, {"n": n}) for n, vector in enumerate(vectors)])
        store.optimize("many")
        queries = vectors[:100] + 0.05 * generator.normal(size=(100, 32)).astype("float32")
        found = store.search("many", [Query(query, None, 10, "dense") for query in queries])
        exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
        overlap = [
            len({hit.payload["n"] for hit in hits} & set(row)) / 10 for hits, row in zip(found, exact, strict=True)
        ]
        assert np.mean(overlap) > 0.97


_WRITER = """
import sys
from pathlib import Path
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.store import Point
from unit.retrieval.contract import ident
store = EdgeStore(Path(sys.argv[1]))
store.create_collection("written", dimension=4, sparse=False)
n = 0
while True:
    store.upsert("written", [Point(ident(str(n + i)), [1.0, n + i, 0.0, 0.0], None, {"n": n + i}) for i in range(20)])
    n += 20
    print(n, flush=True)
"""


def test_a_killed_owner_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    tests = Path(__file__).parents[2]
    path = os.pathsep.join([str(tests), str(tests.parent / "src")])
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert writer.stdout is not None
    acknowledged = 0
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 2000:
            break
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split()  # acknowledged between our reading and its death
    acknowledged = int(rest[-1]) if rest else acknowledged
    writer.wait()
    store = EdgeStore(tmp_path)
    assert store.count("written", tenant=None, filter=None) >= acknowledged
    store.close()
