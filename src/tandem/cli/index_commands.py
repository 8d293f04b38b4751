"""``tandem index ls``, ``check`` and ``rollback``: what is searched, how well, and the way back."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tandem.cli.output import note, print_json, print_table
from tandem.cli.spec_commands import Json

if TYPE_CHECKING:
    from tandem.config.cluster import Cluster
    from tandem.retrieval.store import VectorStore

Name = Annotated[str, typer.Argument(help="The name by which a collection is searched.")]
SHORT = 12


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    index = typer.Typer(help="What is searched, how well, and the way back.", no_args_is_help=True)
    for command in (ls, check, rollback):
        index.command()(command)
    app.add_typer(index, name="index")


def ls(json: Json = False) -> None:
    """List the collections, and what each was made with."""
    from tandem.retrieval.catalog import catalog

    cluster, store = _store()
    entries = catalog(store, cluster.storage)
    if json:
        print_json([asdict(entry) for entry in entries])
        return
    print_table(
        ["name", "collection", "searched", "chunks", "documents", "snapshot", "embedder"],
        [
            [
                entry.name,
                entry.collection,
                "now" if entry.current else "before",
                entry.points,
                entry.snapshot.documents if entry.snapshot else None,
                entry.snapshot.id[:SHORT] if entry.snapshot else None,
                entry.snapshot.embedder.partition("#")[0] if entry.snapshot else None,
            ]
            for entry in entries
        ],
    )


def check(
    name: Name,
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="Neighbours to find.")] = 10,
    questions: Annotated[int, typer.Option(min=1, help="Points whose neighbours are asked for.")] = 200,
    recall: Annotated[float, typer.Option(min=0, max=1, help="The recall that is wanted.")] = 0.99,
    json: Json = False,
) -> None:
    """Measure recall@k against exact search on the collection's own vectors, and say what to set.

    And how similar two of them are by chance, which is where `retriever.min_similarity` begins to mean something.

    Ends with status 1 if a search with default settings stays below the recall that is wanted.
    """
    from tandem.retrieval.recall import check_recall

    _, store = _store()
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("searching", total=None)
        found = check_recall(
            store,
            name,
            k=top_k,
            questions=questions,
            target=recall,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if json:
        print_json({**asdict(found), "good": found.good, "advice": found.advice})
    else:
        rows: list[list[Any]] = [[each.ef, f"{each.recall:.4f}", f"{each.p50_ms:.1f}"] for each in found.measured]
        print_table(["ef", f"recall@{top_k}", "p50, ms"], rows, title=f"{name}: {found.points} vectors", heading=True)
        note(found.advice)
        note(found.threshold_advice)
    if not found.good:
        raise typer.Exit(1)


def rollback(name: Name, json: Json = False) -> None:
    """Search the collection from before the last one again; a second time, and it is as it was."""
    from tandem.retrieval.catalog import roll_back

    cluster, store = _store()
    entry = roll_back(store, cluster.storage, name)
    if json:
        print_json(asdict(entry))
        return
    assert entry.snapshot is not None
    print(f"{name}: {entry.collection}, snapshot {entry.snapshot.id[:SHORT]}, {entry.points} chunks")


def _store() -> tuple[Cluster, VectorStore]:
    from tandem.config.cluster import Cluster
    from tandem.retrieval.actor import connect, join_ray

    cluster = Cluster.load()
    if cluster.qdrant_url is None:
        os.environ.update(cluster.ray_env())
        join_ray(cluster)
    return cluster, connect(cluster)
