from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_models import write_embedder

from tandem.evaluation.classification.opening import open_encoder
from tandem.retrieval.embedder_files import fingerprint
from tandem.retrieval.embedding import Embedder
from tandem.retrieval.embedding_cache import EmbeddingCache
from tandem.retrieval.prompts import Prompts
from tandem.specs.index import EmbedderSpec

TEXTS = ["the quick brown fox", "a lazy dog"]


def test_only_vectors_of_this_type_and_prompt_are_remembered(tmp_path: Path) -> None:
    model = write_embedder(tmp_path / "embedder")
    plain = EmbedderSpec(model=str(model))
    prompted = plain.model_copy(update={"passage_prompt": "passage: "})
    # As an index job leaves them that embedded in bf16.
    wrong = np.ones((2, 32), dtype=np.float32)
    EmbeddingCache(tmp_path, fingerprint(model), "bfloat16").put(TEXTS, wrong)
    expected = {
        spec: Embedder(model, 32, prompts=prompts).encode(TEXTS)
        for spec, prompts in ((plain, Prompts()), (prompted, Prompts(passage="passage: ")))
    }
    assert not np.allclose(expected[plain], expected[prompted], atol=1e-2)
    for _ in range(2):
        for spec, vectors in expected.items():
            encoder = open_encoder(spec, tmp_path)
            assert np.allclose(encoder.remembered(TEXTS), vectors, atol=1e-5)
            assert np.allclose(encoder.encode(TEXTS), vectors, atol=1e-5)
