"""The demo's questions as chats, each with three passages of the documents: what a finetune job with retrieval sees."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEPTH = 12  # retrieved for each question, three of which go into its prompt


def write_chats(folder: Path) -> dict[str, Path]:
    """Write ``train.jsonl`` and ``eval.jsonl`` with rows of ``messages``, the same ones in every run.

    The passages are ranked by BM25 alone: an index would add nothing to what is measured here.
    """
    from tandem.artifacts.uris import resolve
    from tandem.config.cluster import storage_path
    from tandem.data.rows import parse_training
    from tandem.demo.questions import write_questions
    from tandem.specs import FinetuneSpec, IndexSpec
    from tandem.specs.loading import read_yaml
    from tandem.training.data.augment import augment
    from tandem.training.data.examples import chat_turns

    index = IndexSpec.model_validate(read_yaml(ROOT / "jobs" / "index.yaml").data)
    spec = FinetuneSpec.model_validate(read_yaml(ROOT / "jobs" / "finetune.yaml").data)
    assert spec.retrieval is not None
    docs = resolve(index.sources[0].uri, storage=storage_path())
    chunks = _chunks(index, docs)
    paths = {}
    for name, path in write_questions(docs, folder / "questions").items():
        rows = [parse_training(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        chosen = augment(
            rows,
            _ranked([row.question or "" for row in rows], chunks),
            passages=spec.retrieval.passages,
            without_gold=spec.retrieval.without_gold,
            seed=0,
        )
        chats = [
            {"id": row.id, "messages": chat_turns(row, spec.prompt, passages)}
            for row, passages in zip(rows, chosen.contexts, strict=True)
        ]
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
    return paths


def _chunks(index: Any, docs: Path) -> list[Any]:
    from tandem.artifacts.uris import resolve
    from tandem.config.cluster import storage_path
    from tandem.data.documents import list_files, read_file
    from tandem.retrieval.chunking import FastTokenizer, chunk_document

    tokenizer = FastTokenizer(resolve(index.embedder.model, storage=storage_path()))
    return [
        chunk
        for source, file in list_files(index.sources[0], str(docs))
        for document in read_file(file, source).documents
        for chunk in chunk_document(document, index.chunk, tokenizer, salt="benchmark", tenant=None)
    ]


def _ranked(questions: Sequence[str], chunks: Sequence[Any]) -> list[list[Any]]:
    from tandem.retrieval.bm25 import document_terms, query_terms

    texts = [chunk.embedding_text for chunk in chunks]
    average = sum(len(text.split()) for text in texts) / len(texts)
    terms = [dict(zip(vector.indices, vector.values, strict=True)) for vector in document_terms(texts, average)]
    found_in = Counter(term for weights in terms for term in weights)
    ranked = []
    for query in query_terms(questions):
        rarity = {term: math.log(len(chunks) / found_in[term]) for term in query.indices if found_in[term]}
        scores = [sum(weights.get(term, 0.0) * weight for term, weight in rarity.items()) for weights in terms]
        best = sorted(range(len(chunks)), key=lambda number: -scores[number])[:DEPTH]
        ranked.append([chunks[number] for number in best])
    return ranked
