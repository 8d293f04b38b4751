"""The index job on Ray Data, with the embedded store in its actor and a tiny random embedder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stand_ins.documents import write_docs
from tiny_models import write_embedder

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import read_manifest
from tandem.config.cluster import Cluster
from tandem.errors import NotFoundError, UnreachableError
from tandem.retrieval import job, sync
from tandem.retrieval.actor import NAME, NAMESPACE, ActorStore, connect
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.retriever import open_retriever
from tandem.retrieval.store import Point
from tandem.specs.index import IndexSpec
from tandem.specs.search import SearchSpec

KILLED = Path(__file__).parents[1] / "stand_ins" / "killed_index.py"
Index = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "embedder")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return write_docs(tmp_path / "docs")


@pytest.fixture
def index(ray_cluster: Cluster, embedder: Path, docs: Path) -> Index:
    def run(name: str, **changes: Any) -> dict[str, Any]:
        run.calls += 1  # type: ignore[attr-defined]
        fields = {"sources": [str(docs)], "embedder": {"model": str(embedder)}, **changes}
        spec = IndexSpec.model_validate({"kind": "index", "name": name, **fields})
        folder = ray_cluster.storage / "jobs" / f"{name}-{run.calls}"  # type: ignore[attr-defined]
        folder.mkdir(parents=True, exist_ok=True)
        return job.run(spec, JobContext(folder.name, name, folder, ray_cluster.storage, ray_cluster))

    run.calls = 0  # type: ignore[attr-defined]
    return run


def test_documents_become_passages_with_places_in_their_documents(
    index: Index, ray_cluster: Cluster, docs: Path
) -> None:
    result = index("first")
    assert (result["documents"], result["chunks"], result["written"]) == (3, 4, 4)
    assert (result["deleted"], result["unchanged"], result["quarantined"]) == (0, 0, 0)
    manifest = read_manifest(Path(result["artifact"]))
    assert manifest.type == "index"
    assert manifest.meta["snapshot"]["id"] == result["snapshot"]
    progress = json.loads((ray_cluster.storage / "jobs" / "first-1" / "progress.json").read_text())
    assert (progress["phase"], progress["done"]) == ("done", 4)

    retriever = open_retriever(ray_cluster, "first")
    for mode in ("hybrid", "sparse"):
        (passages,) = retriever.search(["where does the lazy dog sleep?"], SearchSpec(top_k=2, mode=mode))  # type: ignore[arg-type]
        assert "Fox > Food" in {passage.section for passage in passages}
    for passage in passages:
        text = (docs / passage.source).read_text()
        assert passage.text == text[passage.start : passage.end]
    with pytest.raises(NotFoundError, match=r"no collection 'unknown'.*first"):
        open_retriever(ray_cluster, "unknown")


def test_a_second_run_embeds_only_what_changed_and_deletes_what_vanished(
    index: Index, ray_cluster: Cluster, docs: Path
) -> None:
    first = index("sync")
    same = index("sync")
    assert (same["written"], same["deleted"], same["unchanged"]) == (0, 0, 4)
    assert same["snapshot"] == first["snapshot"]
    (docs / "plain.txt").unlink()
    (docs / "sub" / "numbers.rst").write_text("Numbers\n=======\n\nTwo 2 and three 3.\n")
    (docs / "new.md").write_text("# New\n\nA mark: question mark.\n")
    changed = index("sync")
    assert (changed["documents"], changed["written"], changed["deleted"], changed["unchanged"]) == (3, 2, 2, 2)
    assert changed["snapshot"] != first["snapshot"]
    store = connect(ray_cluster)
    assert store.count("sync", tenant=None, filter=None) == 4
    assert store.count("sync", tenant=None, filter={"source": "plain.txt"}) == 0


def test_pages_lines_and_times_reach_the_passages_and_a_touched_file_is_not_written_again(
    index: Index, ray_cluster: Cluster, docs: Path
) -> None:
    (docs / "rows.csv").write_text("id,text\na,the zebra grazes\n")
    os.utime(docs / "rows.csv", (0, 86_400))
    first = index("whereabouts")
    (passage,) = open_retriever(ray_cluster, "whereabouts").search(
        ["zebra"], SearchSpec(top_k=1), filter={"source": "rows.csv#a"}
    )[0]
    assert (passage.page, passage.line, passage.modified_at) == (None, 2, "1970-01-02T00:00:00+00:00")
    os.utime(docs / "rows.csv", (0, 2 * 86_400))
    again = index("whereabouts")
    assert (again["written"], again["deleted"], again["snapshot"]) == (0, 0, first["snapshot"])


def test_one_large_file_is_chunked_in_blocks_that_are_gone_afterwards(
    index: Index, ray_cluster: Cluster, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_BLOCK_BYTES", 16_384)
    monkeypatch.setattr(sync, "EMBED_BATCH", 256)  # more than one batch: by actors
    staged: list[int] = []
    surveyed = job.survey_documents

    def seen(*arguments: Any) -> Any:
        survey = surveyed(*arguments)
        staged.extend(len(ids) for _, ids in survey.staged)
        return survey

    monkeypatch.setattr(job, "survey_documents", seen)
    path = docs / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": f"number {n} " + "word " * 20}) + "\n" for n in range(600)))
    result = index("large", sources=[str(path)])
    assert (result["documents"], result["written"], sum(staged)) == (600, 600, 600)
    assert len(staged) > 3
    assert not (ray_cluster.storage / "jobs" / "large-1" / "staged").exists()


def test_a_graph_may_take_longer_than_a_call(ray_cluster: Cluster) -> None:
    import ray

    class Building:
        def count(self, *_: Any, **__: Any) -> int:
            return self.optimize("")

        def optimize(self, _: str) -> int:
            import threading

            threading.Event().wait(1.5)
            return 1

    actor = ray.remote(concurrency_groups={"maintenance": 1})(Building).remote()
    store = ActorStore(lambda: actor, 0.5)
    with pytest.raises(UnreachableError, match="count: no answer from the store"):
        store.count("c", tenant=None, filter=None)
    store.optimize("c")


def test_a_store_that_could_not_be_started_is_found_again_when_it_can(ray_cluster: Cluster, tmp_path: Path) -> None:
    import ray

    actor = ray.remote(EdgeStore)
    # Ray restarts an actor that was killed, but none whose constructor raised.
    store = ActorStore(lambda: actor.options(max_restarts=-1).remote(tmp_path), 60)
    owner = EdgeStore(tmp_path)
    for _ in range(2):
        with pytest.raises(UnreachableError, match="the store's actor is gone"):
            store.collections()
    owner.close()
    assert store.collections() == []


def test_the_store_survives_the_death_of_its_actor(ray_cluster: Cluster) -> None:
    import ray

    store = connect(ray_cluster)
    store.create_collection("survivor", dimension=4, sparse=False)
    ids = [f"00000000-0000-0000-0000-{number:012d}" for number in range(500)]
    store.upsert("survivor", [Point(id, [1.0, 0.0, 0.0, 0.5], None, {"n": n}) for n, id in enumerate(ids)])
    ray.kill(ray.get_actor(NAME, namespace=NAMESPACE), no_restart=False)
    deadline = time.monotonic() + 60
    while True:
        # The kill is asynchronous: the old actor may still answer, the new one must in the end.
        assert store.count("survivor", tenant=None, filter=None) == len(ids)
        if _restarts(ray_cluster) > 0:
            break
        assert time.monotonic() < deadline, "the actor didn't restart in a minute"
    assert "survivor" in connect(ray_cluster).collections()


def _restarts(cluster: Cluster) -> int:
    from ray.util.state import list_actors

    (state,) = list_actors(cluster.dashboard_url, filters=[("name", "=", NAME)], detail=True)
    return int(state.num_restarts)


WORDS = [
    "fox",
    "dog",
    "mark",
    "numbers",
    "briefly",
    "answer",
    "question",
    "lazy",
    "quick",
    "brown",
    "zero",
    "one",
    "two",
]


class Folder:
    """Random edits of a folder; the same seed makes the same ones."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self._chance = random.Random(seed)
        self._made = 0

    def edit(self, times: int) -> None:
        for _ in range(times):
            files = sorted(path for path in self.root.rglob("*") if path.is_file())
            kind = self._chance.choices(["add", "change", "delete", "rename"], [4, 3, 2, 2])[0] if files else "add"
            if kind == "add":
                self._write(self._new())
                continue
            file = self._chance.choice(files)
            if kind == "change":
                self._write(file)
            elif kind == "delete":
                file.unlink()
            else:
                target = self._new()
                target.parent.mkdir(exist_ok=True)
                file.rename(target)

    def _new(self) -> Path:
        self._made += 1
        suffix = self._chance.choice([".md", ".txt", ".rst"])
        return self.root / self._chance.choice(["a", "b", "."]) / f"{self._made}{suffix}"

    def _write(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        sections = self._chance.randint(1, 3)
        path.write_text("\n\n".join(" ".join(self._chance.choices(WORDS, k=12)) for _ in range(sections)) + "\n")


def points(cluster: Cluster, collection: str) -> dict[str, tuple[dict[str, Any], list[float]]]:
    fields = ["source", "title", "section", "text", "start", "end", "ordinal", "document_sha256"]
    found: dict[str, tuple[dict[str, Any], list[float]]] = {}
    page = connect(cluster).scroll(collection, fields=fields, limit=10_000, offset=None, vectors=True)
    assert page.next is None
    for record in page.records:
        found[record.id] = (record.payload, [round(value, 5) for value in record.vector])
    return found


def test_five_hundred_edits_with_kills_in_between_leave_what_a_fresh_index_holds(
    index: Index, ray_cluster: Cluster, embedder: Path, tmp_path: Path
) -> None:
    seed = int(os.environ.get("TANDEM_TEST_SEED") or random.randrange(2**32))
    print(f"TANDEM_TEST_SEED={seed} repeats this")
    chance = random.Random(seed)
    folder = Folder(tmp_path / "edited", seed)
    folder.root.mkdir()
    spec = {"kind": "index", "name": "edited", "sources": [str(folder.root)], "embedder": {"model": str(embedder)}}
    # The driver kills itself: a batch on and a moment later (a folder may have no more than one), then before it
    # deletes, with all written, with the alias moved. Then the folder changes again before anybody looks.
    kills = [
        ("embed", 2, chance.uniform(0, 0.2)),
        ("delete", 1, 0.0),
        (chance.choice(["optimize", "check"]), 1, 0.0),
        ("done", 1, 0.0),
    ]
    for phase, words, moment in kills:
        folder.edit(125)
        asked = {"spec": spec, "storage": str(ray_cluster.storage), "phase": phase, "words": words, "moment": moment}
        done = subprocess.run(
            [sys.executable, KILLED, json.dumps(asked)], capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == -signal.SIGKILL, f"{phase} {words} {moment}: {done.stdout}{done.stderr}"
    folder.edit(5)
    result = index("edited", sources=[str(folder.root)])
    assert result["unchanged"] > 0
    fresh = index("fresh", sources=[str(folder.root)])
    assert result["snapshot"] == fresh["snapshot"]
    assert result["chunks"] == fresh["written"] > 20
    assert points(ray_cluster, "edited") == points(ray_cluster, "fresh")
