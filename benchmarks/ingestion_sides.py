"""`python -m benchmarks.ingestion_sides SIDE FOLDER`: one contender of `ingestion`; writes FOLDER/SIDE.json.

FOLDER/setting.json names the file of documents and the embedder. The interval is the same for all: it begins when the
contender begins to read the file, with its modules imported (the job: its driver's, and Ray joined), and ends when the
last vector is in the store. What the job does in it and the others don't stays in: it starts its processes, which
import torch and load the model, chunks with the tokenizer, tries out bf16, and writes chunks, vectors and BM25 weights
to disk. The others have their model loaded and their texts cut before; peers keep vectors in memory, as they do by
default, build no graph and write nothing down; the bare embedder doesn't even read.
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
CHUNK = {"tokens": 256, "overlap": 0}  # as many as the embedder reads: a document makes one


def bare(setting: dict[str, Any]) -> dict[str, float]:
    """The embedder, and nothing else."""
    from tandem.config.machine import cores
    from tandem.retrieval.embedding import Embedder

    texts = embedded_texts(setting)
    embedder = Embedder(Path(setting["embedder"]), BATCH_SIZE, setting["dtype"], passes=cores())
    embedder.encode(texts[:BATCH_SIZE])
    return _timed(lambda: embedder.encode(texts), len(texts))


def tandem(setting: dict[str, Any]) -> dict[str, float]:
    """The index job; apart from the interval also the whole, with the graph built, checked and named."""
    from benchmarks.clusters import cluster_in
    from tandem.artifacts.job import JobContext
    from tandem.retrieval import job
    from tandem.retrieval.actor import join_ray
    from tandem.specs import IndexSpec

    written: list[float] = []

    class Watched(JobContext):
        def progress(self, phase: str, done: int, total: int | None = None, **figures: float | str) -> None:
            super().progress(phase, done, total, **figures)
            if phase == "embed" and done == total:
                written.append(time.perf_counter())

    spec = IndexSpec.model_validate(
        {
            "kind": "index",
            "name": COLLECTION,
            "sources": [setting["documents"]],
            "chunk": CHUNK,
            "embedder": {"model": setting["embedder"], "batch_size": BATCH_SIZE},
        }
    )
    cluster = cluster_in(Path(setting["folder"]) / "storage", setting["ray_address"])
    job_folder = cluster.storage / "jobs" / "benchmark-1"
    job_folder.mkdir(parents=True)
    context = Watched("benchmark-1", COLLECTION, job_folder, cluster.storage, cluster)
    join_ray(cluster)
    began = time.perf_counter()
    made = job.run(spec, context)
    ended = time.perf_counter()
    count = int(setting["count"])
    if made["embedded"] < count:
        raise SystemExit(f"{count} documents became {made['embedded']} vectors: nothing was compared")
    return {"rate": made["embedded"] / (written[-1] - began), "seconds": ended - began, "chunks": made["chunks"]}


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
    texts = embedded_texts(setting)
    pipeline.warm_up()
    embedder.run([Document(content=texts[0])])

    def ingest() -> None:
        _read(setting)
        pipeline.run({"split": {"documents": [Document(content=text) for text in texts]}})

    return _timed(ingest, len(texts)) | {"chunks": store.count_documents()}


def llama_index(setting: dict[str, Any]) -> dict[str, float]:
    """LlamaIndex's ingestion pipeline, as its documentation builds it, with our batch size."""
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embedder = HuggingFaceEmbedding(model_name=setting["embedder"], embed_batch_size=BATCH_SIZE)
    pipeline = IngestionPipeline(transformations=[SentenceSplitter(chunk_size=256, chunk_overlap=0), embedder])
    texts = embedded_texts(setting)
    embedder.get_text_embedding(texts[0])
    count: list[int] = []

    def ingest() -> None:
        _read(setting)
        nodes = pipeline.run(documents=[Document(text=text) for text in texts])
        VectorStoreIndex(nodes, embed_model=embedder)
        count.append(len(nodes))

    return _timed(ingest, len(texts)) | {"chunks": count[0]}


def embedded_texts(setting: dict[str, Any]) -> list[str]:
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
        for chunk in chunk_document(document, ChunkSpec.model_validate(CHUNK), tokenizer, salt="", tenant=None)
    ]


def _read(setting: dict[str, Any]) -> list[str]:
    """The documents, as a peer reads them; it then embeds what was prepared of each, so that all embed the same."""
    with Path(setting["documents"]).open() as file:
        return [json.loads(line)["text"] for line in file]


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
