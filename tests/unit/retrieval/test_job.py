"""What an index job does to a collection, without Ray: few documents need none of its actors, nor does the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from stand_ins.blocks import Blocks
from stand_ins.documents import write_docs
from stand_ins.world import make_cluster
from tiny_models import write_embedder

from tandem.artifacts.job import JobContext
from tandem.config.cluster import Cluster
from tandem.errors import DataError, InputError, StoreError, UnreachableError
from tandem.retrieval import actor, job, retriever, sync
from tandem.retrieval.catalog import roll_back
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.embedding import Embedder
from tandem.retrieval.prompts import Prompts
from tandem.retrieval.retriever import open_retriever
from tandem.specs.index import IndexSpec
from tandem.specs.search import SearchSpec

Index = Callable[..., dict[str, Any]]


@dataclass
class World:
    """A cluster's folders, and the store that its actor would hold."""

    cluster: Cluster
    store: EdgeStore


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(make_cluster(tmp_path), EdgeStore(tmp_path / "index"))
    for module in (actor, job, retriever):
        monkeypatch.setattr(module, "connect", lambda _: made.store)
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "embedder")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return write_docs(tmp_path / "docs")


@pytest.fixture
def index(world: World, embedder: Path, docs: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    monkeypatch.setattr(job, "_connect_ray", lambda _: None)
    monkeypatch.setattr(job, "_check_gpus", lambda *_: None)
    monkeypatch.setattr(job, "read_and_stage", Blocks)
    # What a job does in a process of its own.
    monkeypatch.setattr("tandem.config.machine.limit_threads", lambda _: None)
    calls: list[str] = []

    def run(name: str, **changes: Any) -> dict[str, Any]:
        calls.append(name)
        fields = {"sources": [str(docs)], "embedder": {"model": str(embedder)}, **changes}
        spec = IndexSpec.model_validate({"kind": "index", "name": name, **fields})
        folder = world.cluster.storage / "jobs" / f"{name}-{len(calls)}"
        folder.mkdir(parents=True)
        return job.run(spec, JobContext(folder.name, name, folder, world.cluster.storage, world.cluster))

    return run


def test_an_index_cut_short_goes_on_where_it_was(index: Index, world: World, docs: Path) -> None:
    whole = index("resumed")
    store = world.store
    records = store.scroll("resumed", fields=(), limit=3, offset=None).records
    store.delete("resumed", [record.id for record in records])
    again = index("resumed")
    assert (again["written"], again["unchanged"]) == (3, 1)
    assert again["snapshot"] == whole["snapshot"]


def test_rows_have_tenants_and_a_row_without_one_is_set_aside(index: Index, world: World, docs: Path) -> None:
    rows = [
        {"id": "a", "text": "The fox of the red team.", "team": "red"},
        {"id": "b", "text": "The fox of the blue team.", "team": "blue"},
        {"id": "c", "text": "The fox of nobody."},
    ]
    path = docs / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = index("teams", sources=[str(path)], tenant_field="team", max_quarantined=0.5)
    assert (result["chunks"], result["quarantined"]) == (2, 1)
    quarantine = (world.cluster.storage / "jobs" / "teams-1" / "quarantine.jsonl").read_text()
    assert "rows.jsonl#c: no tenant" in quarantine
    retriever = open_retriever(world.cluster, "teams")
    for mode in ("hybrid", "dense", "sparse"):
        (passages,) = retriever.search(["the fox of the blue team"], SearchSpec(top_k=5, mode=mode), tenant="red")  # type: ignore[arg-type]
        assert [passage.source for passage in passages] == ["rows.jsonl#a"]


def test_too_many_broken_documents_fail_before_anything_is_written(index: Index, world: World, docs: Path) -> None:
    (docs / "broken.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"1 of 4 documents.*broken\.txt: not UTF-8"):
        index("broken")
    assert not [name for name in world.store.collections() if name.startswith("broken")]
    assert not (world.cluster.storage / "artifacts" / "broken").exists()


def test_a_file_that_cannot_be_read_now_costs_nothing_that_is_indexed(index: Index, world: World, docs: Path) -> None:
    first = index("unread")
    (docs / "new.md").write_text("# New\n\nWritten meanwhile.\n")
    (docs / "plain.txt").unlink()
    (docs / "plain.txt").symlink_to("/proc/self/mem")  # reading it is an I/O error, as of a store that throttles
    with pytest.raises(UnreachableError, match=r"plain\.txt: can't be read.*what is indexed of it stays"):
        index("unread", max_quarantined=1.0)
    store = world.store
    assert store.count("unread", tenant=None, filter=None) == first["chunks"]
    assert store.count("unread", tenant=None, filter={"source": "plain.txt"}) == 1
    # Broken content is something else: what was indexed of it isn't what the file says any more.
    (docs / "plain.txt").unlink()
    (docs / "plain.txt").write_bytes(b"caf\xe9")
    broken = index("unread", max_quarantined=0.5)
    assert (broken["quarantined"], broken["deleted"], broken["written"]) == (1, 1, 1)
    assert store.count("unread", tenant=None, filter={"source": "plain.txt"}) == 0


def test_the_name_stays_where_it_is_when_the_new_collection_does_not_find_its_chunks(
    index: Index, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    index("checked")
    store = world.store
    before = store.aliases()["checked"]
    with monkeypatch.context() as patched:
        patched.setattr(sync, "find_themselves", lambda *_: 0)
        with pytest.raises(StoreError, match="find themselves"):
            index("checked", chunk={"tokens": 32, "overlap": 0})
    assert store.aliases()["checked"] == before
    index("checked", chunk={"tokens": 32, "overlap": 0})
    assert store.aliases()["checked"] != before


def test_a_collection_without_term_weights_is_searched_by_direction_until_one_with_them_takes_its_place(
    index: Index, world: World
) -> None:
    index("dense-only", sparse=False)
    (passages,) = open_retriever(world.cluster, "dense-only").search(["fox"], SearchSpec(top_k=2))
    assert len(passages) == 2
    index("dense-only", sparse=True)
    assert open_retriever(world.cluster, "dense-only").snapshot.sparse  # type: ignore[union-attr]


def test_what_was_embedded_once_is_not_embedded_again(index: Index, world: World, tmp_path: Path) -> None:
    embedder = write_embedder(tmp_path / "another", hidden=40)
    first = index("cached", embedder={"model": str(embedder)})
    assert (first["written"], first["embedded"]) == (4, 4)
    store = world.store
    store.drop_collection(store.aliases()["cached"])
    lost = index("cached", embedder={"model": str(embedder)})
    assert (lost["written"], lost["embedded"], lost["snapshot"]) == (4, 0, first["snapshot"])
    beside = index("elsewhere", embedder={"model": str(embedder)}, tenant_field=None, vectors={"m": 16})
    assert (beside["written"], beside["embedded"]) == (4, 0)


def test_another_embedder_builds_a_collection_beside_and_the_name_moves_when_it_is_whole(
    index: Index, world: World, docs: Path, tmp_path: Path
) -> None:
    index("moved")
    store = world.store
    first = store.aliases()["moved"]
    retriever = open_retriever(world.cluster, "moved")
    other = write_embedder(tmp_path / "other-embedder", hidden=48)
    # It fails half-way: everybody goes on with what was there.
    (docs / "broken.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError):
        index("moved", embedder={"model": str(other)})
    assert store.aliases()["moved"] == first
    (docs / "broken.txt").unlink()
    result = index("moved", embedder={"model": str(other)})
    second = store.aliases()["moved"]
    assert (result["written"], second != first) == (4, True)
    # Who has the old one open isn't disturbed, who opens the name gets the new one.
    assert len(retriever.search(["fox"], SearchSpec(top_k=2))[0]) == 2
    newer = open_retriever(world.cluster, "moved")
    assert newer.snapshot is not None
    assert (newer.snapshot.dimension, newer.snapshot.points) == (48, second)
    # The one before stays for a way back, the one before that goes.
    index("moved", chunk={"tokens": 32, "overlap": 0})
    third = store.aliases()["moved"]
    assert {name for name in store.collections() if name.startswith("moved-")} == {second, third}
    assert open_retriever(world.cluster, "moved").snapshot.chunk_tokens == 32  # type: ignore[union-attr]
    roll_back(store, world.cluster.storage, "moved")
    assert open_retriever(world.cluster, "moved").snapshot.dimension == 48  # type: ignore[union-attr]


def test_type_and_prompts_of_the_embedder_make_collections_of_their_own_that_are_searched_with_them(
    index: Index, world: World, tmp_path: Path
) -> None:
    model = write_embedder(tmp_path / "prompted", hidden=56)
    prompts = {"query_prompt": "question: ", "passage_prompt": "default value: "}
    embedded, collections = [], []
    for settings in ({}, {"dtype": "bfloat16"}, {"dtype": "float32"}, prompts, {}):
        result = index("asked", embedder={"model": str(model), **settings})
        embedded.append((result["embedded"], result["unchanged"]))
        collections.append(world.store.aliases()["asked"])
        if settings is prompts:
            asked = open_retriever(world.cluster, "asked")
    # Fewer chunks than tell are embedded in float32 without having been asked for; back there, nothing is computed.
    assert embedded == [(4, 0), (4, 0), (0, 0), (4, 0), (0, 0)]
    assert len(set(collections)) == 4
    assert collections[4] == collections[0]
    assert asked.snapshot is not None
    assert asked.snapshot.dtype == "auto"
    question = "where does the lazy dog sleep?"
    (expected,) = Embedder(model, 8, prompts=Prompts("question: ", "default value: ")).encode([question], question=True)
    (vector,) = asked.embed([question], question=True)[0]
    assert vector.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_name_that_a_collection_has_is_refused(index: Index, world: World) -> None:
    world.store.create_collection("taken", dimension=4, sparse=False)
    with pytest.raises(InputError, match="'taken' belongs to a collection"):
        index("taken")


def test_the_documents_of_another_job_go_only_where_that_is_said(index: Index, docs: Path, tmp_path: Path) -> None:
    index("kept")
    (tmp_path / "other.md").write_text("# Other\n\nThe lamp is green.\n")
    with pytest.raises(InputError, match="is of the job 'kept': its documents would be deleted"):
        index("other", collection="kept", sources=[str(tmp_path / "other.md")])
    assert index("kept")["unchanged"] == 4
    replaced = index("other", collection="kept", takes_over="kept", sources=[str(tmp_path / "other.md")])
    assert (replaced["written"], replaced["deleted"]) == (1, 4)
    assert index("other", collection="kept", sources=[str(tmp_path / "other.md")])["unchanged"] == 1


def test_who_made_what_the_name_stands_for_counts_and_not_who_came_last(index: Index, world: World) -> None:
    index("docs")
    index("other", collection="docs", takes_over="docs", chunk={"tokens": 32, "overlap": 0})
    with pytest.raises(InputError, match="is of the job 'other'"):
        index("docs")
    roll_back(world.store, world.cluster.storage, "docs")
    assert index("docs")["unchanged"] == 4


class ActorsError(Exception):
    """It would start actors."""


@pytest.mark.parametrize(("batch", "driver", "local"), [(3, False, True), (4, True, True), (4, False, False)])
def test_more_than_a_batch_needs_actors_and_so_does_what_is_not_for_the_driver(
    index: Index, world: World, monkeypatch: pytest.MonkeyPatch, batch: int, driver: bool, local: bool
) -> None:
    def in_actors(*_: object) -> None:
        raise ActorsError

    monkeypatch.setattr(sync, "_in_actors", in_actors)
    monkeypatch.setattr(sync, "has_gpu_driver", lambda: False)
    assert index("few")["written"] == 4
    monkeypatch.setattr(sync, "EMBED_BATCH", batch)
    monkeypatch.setattr(sync, "has_gpu_driver", lambda: driver)
    # A GPU that it sees isn't its own, and elsewhere it runs on the head's machine.
    world.cluster = replace(world.cluster, local=local)
    with pytest.raises(ActorsError):
        index("many")
