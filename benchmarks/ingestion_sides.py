"""`python -m benchmarks.ingestion_sides SIDE FOLDER`: one contender of `ingestion`; writes FOLDER/SIDE.json.

FOLDER/setting.json names the file of documents and the embedder. Peers keep their vectors in memory, as they do by
default: they build no graph and write nothing down.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH_SIZE = 32
COLLECTION = "benchmark"


def bare(setting: dict[str, Any]) -> dict[str, float]:
    """The embedder, and nothing else."""
    from tandem.retrieval.embedding import Embedder

    texts = _embedded_texts(setting)
    embedder = Embedder(Path(setting["embedder"]), BATCH_SIZE, setting["dtype"])
    embedder.encode(texts[:BATCH_SIZE])
    return _timed(lambda: embedder.encode(texts), len(texts))


def tandem(setting: dict[str, Any]) -> dict[str, float]:
    """The index job; what counts is from its first batch on, and apart from it the whole."""
    from benchmarks.clusters import cluster_in
    from tandem.artifacts.job import JobContext
    from tandem.retrieval import job
    from tandem.specs import IndexSpec

    seen: list[tuple[float, int]] = []

    class Watched(JobContext):
        def progress(self, phase: str, done: int, total: int | None = None, **figures: float | str) -> None:
            super().progress(phase, done, total, **figures)
            if phase == "embed" and done:
                seen.append((time.monotonic(), done))

    spec = IndexSpec.model_validate(
        {
            "kind": "index",
            "name": COLLECTION,
            "sources": [setting["documents"]],
            "embedder": {"model": setting["embedder"], "batch_size": BATCH_SIZE},
        }
    )
    cluster = cluster_in(Path(setting["folder"]) / "storage", setting["ray_address"])
    job_folder = cluster.storage / "jobs" / "benchmark-1"
    job_folder.mkdir(parents=True)
    made: list[dict[str, Any]] = []
    context = Watched("benchmark-1", COLLECTION, job_folder, cluster.storage, cluster)
    whole = _timed(lambda: made.append(job.run(spec, context)), int(setting["count"]))
    if made[0]["embedded"] != setting["count"]:
        raise SystemExit(f"{setting['count']} documents became {made[0]['embedded']} vectors: nothing was compared")
    (first, before), (last, after) = seen[0], seen[-1]
    # One batch only (a corpus for the memory's sake may be small): there is no rate between two.
    steady = (after - before) / (last - first) if after > before else whole["rate"]
    return {"rate": steady, "seconds": whole["seconds"], "chunks": made[0]["chunks"]}


def haystack(setting: dict[str, Any]) -> dict[str, float]:
    """Haystack's indexing pipeline, as its documentation builds it."""
    from haystack import Document, Pipeline
    from haystack.components.preprocessors import DocumentSplitter
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder

    store = InMemoryDocumentStore()
    pipeline = Pipeline()
    pipeline.add_component("split", DocumentSplitter(split_by="word", split_length=200))
    embedder = SentenceTransformersDocumentEmbedder(
        model=setting["embedder"], batch_size=BATCH_SIZE, progress_bar=False, normalize_embeddings=True
    )
    pipeline.add_component("embed", embedder)
    pipeline.add_component("write", DocumentWriter(document_store=store))
    pipeline.connect("split", "embed")
    pipeline.connect("embed", "write")
    texts = _embedded_texts(setting)
    pipeline.warm_up()
    embedder.run([Document(content=texts[0])])
    timed = _timed(
        lambda: pipeline.run({"split": {"documents": [Document(content=text) for text in texts]}}), len(texts)
    )
    return timed | {"chunks": store.count_documents()}


def llama_index(setting: dict[str, Any]) -> dict[str, float]:
    """LlamaIndex's ingestion pipeline, as its documentation builds it, with our batch size."""
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embedder = HuggingFaceEmbedding(model_name=setting["embedder"], embed_batch_size=BATCH_SIZE)
    pipeline = IngestionPipeline(transformations=[SentenceSplitter(chunk_size=256, chunk_overlap=0), embedder])
    texts = _embedded_texts(setting)
    embedder.get_text_embedding(texts[0])
    count: list[int] = []

    def ingest() -> None:
        nodes = pipeline.run(documents=[Document(text=text) for text in texts])
        VectorStoreIndex(nodes, embed_model=embedder)
        count.append(len(nodes))

    return _timed(ingest, len(texts)) | {"chunks": count[0]}


def _embedded_texts(setting: dict[str, Any]) -> list[str]:
    """What the index job embeds of each document, so that all embed the same."""
    from tandem.data.documents import read_file
    from tandem.data.sources import DataFile
    from tandem.retrieval.chunking import FastTokenizer, chunk_document
    from tandem.specs.index import ChunkSpec

    path = Path(setting["documents"])
    tokenizer = FastTokenizer(Path(setting["embedder"]))
    return [
        chunk.embedding_text
        for document in read_file(DataFile.local(path), path.name).documents
        for chunk in chunk_document(document, ChunkSpec(), tokenizer, salt="", tenant=None)
    ]


def _timed(run: Callable[[], object], count: int) -> dict[str, float]:
    began = time.perf_counter()
    run()
    took = time.perf_counter() - began
    return {"rate": count / took, "seconds": took}


SIDES = {"bare": bare, "tandem": tandem, "haystack": haystack, "llama_index": llama_index}


def main() -> None:
    side, folder = sys.argv[1], Path(sys.argv[2])
    setting = json.loads((folder / "setting.json").read_text())
    (folder / f"{side}.json").write_text(json.dumps(SIDES[side](setting | {"folder": str(folder)})))


if __name__ == "__main__":
    main()
