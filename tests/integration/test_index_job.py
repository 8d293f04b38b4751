"""The index job on Ray Data, with the embedded store in its actor and a tiny random embedder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_embedder

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import read_manifest
from tandem.config.cluster import Cluster
from tandem.errors import DataError, InputError, NotFoundError
from tandem.retrieval import job
from tandem.retrieval.actor import NAME, NAMESPACE, connect
from tandem.retrieval.retriever import open_retriever
from tandem.retrieval.store import Point
from tandem.specs.index import IndexSpec

Index = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "embedder")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "fox.md").write_text("# Fox\n\nThe quick brown fox jumps.\n\n## Food\n\nThe lazy dog sleeps.\n")
    (folder / "sub" / "numbers.rst").write_text("Numbers\n=======\n\nZero 0 and one 1.\n")
    (folder / "plain.txt").write_text("Answer the question as briefly as you can.\n")
    return folder


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
    assert (result["documents"], result["chunks"], result["embedded"]) == (3, 4, 4)
    assert (result["deleted"], result["unchanged"], result["quarantined"]) == (0, 0, 0)
    manifest = read_manifest(Path(result["artifact"]))
    assert manifest.type == "index"
    assert manifest.meta["snapshot"]["id"] == result["snapshot"]
    progress = json.loads((ray_cluster.storage / "jobs" / "first-1" / "progress.json").read_text())
    assert (progress["phase"], progress["done"]) == ("done", 4)

    retriever = open_retriever(ray_cluster, "first")
    for mode in ("hybrid", "sparse"):
        (passages,) = retriever.search(["where does the lazy dog sleep?"], top_k=2, mode=mode)  # type: ignore[arg-type]
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
    assert (same["embedded"], same["deleted"], same["unchanged"]) == (0, 0, 4)
    assert same["snapshot"] == first["snapshot"]
    (docs / "plain.txt").unlink()
    (docs / "sub" / "numbers.rst").write_text("Numbers\n=======\n\nTwo 2 and three 3.\n")
    (docs / "new.md").write_text("# New\n\nA mark: question mark.\n")
    changed = index("sync")
    assert (changed["documents"], changed["embedded"], changed["deleted"], changed["unchanged"]) == (3, 2, 2, 2)
    assert changed["snapshot"] != first["snapshot"]
    store = connect(ray_cluster)
    assert store.count("sync", tenant=None, filter=None) == 4
    assert store.count("sync", tenant=None, filter={"source": "plain.txt"}) == 0


def test_an_index_cut_short_goes_on_where_it_was(index: Index, ray_cluster: Cluster, docs: Path) -> None:
    whole = index("resumed")
    store = connect(ray_cluster)
    records = store.scroll("resumed", fields=(), limit=3, offset=None).records
    store.delete("resumed", [record.id for record in records])
    again = index("resumed")
    assert (again["embedded"], again["unchanged"]) == (3, 1)
    assert again["snapshot"] == whole["snapshot"]


def test_rows_have_tenants_and_a_row_without_one_is_set_aside(index: Index, ray_cluster: Cluster, docs: Path) -> None:
    rows = [
        {"id": "a", "text": "The fox of the red team.", "team": "red"},
        {"id": "b", "text": "The fox of the blue team.", "team": "blue"},
        {"id": "c", "text": "The fox of nobody."},
    ]
    path = docs / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = index("teams", sources=[str(path)], tenant_field="team", max_quarantined=0.5)
    assert (result["chunks"], result["quarantined"]) == (2, 1)
    quarantine = (ray_cluster.storage / "jobs" / "teams-1" / "quarantine.jsonl").read_text()
    assert "rows.jsonl#c: no tenant" in quarantine
    retriever = open_retriever(ray_cluster, "teams")
    for mode in ("hybrid", "dense", "sparse"):
        (passages,) = retriever.search(["the fox of the blue team"], top_k=5, mode=mode, tenant="red")  # type: ignore[arg-type]
        assert [passage.source for passage in passages] == ["rows.jsonl#a"]


def test_too_many_broken_documents_fail_before_anything_is_written(
    index: Index, ray_cluster: Cluster, docs: Path
) -> None:
    (docs / "broken.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"1 of 4 documents.*broken\.txt: not UTF-8"):
        index("broken")
    assert "broken" not in connect(ray_cluster).collections()
    assert not (ray_cluster.storage / "artifacts" / "broken").exists()


def test_a_collection_without_term_weights_is_searched_by_direction_and_keeps_its_shape(
    index: Index, ray_cluster: Cluster
) -> None:
    index("dense-only", sparse=False)
    (passages,) = open_retriever(ray_cluster, "dense-only").search(["fox"], top_k=2)
    assert len(passages) == 2
    with pytest.raises(InputError, match="give another `collection`"):
        index("dense-only", sparse=True)


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


def test_another_embedder_needs_another_collection(index: Index, embedder: Path, tmp_path: Path) -> None:
    index("moved")
    other = shutil.copytree(embedder, tmp_path / "other-embedder")
    with (other / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="made with another embedder") as caught:
        index("moved", embedder={"model": str(other)})
    assert "`collection` of their own" in str(caught.value)
