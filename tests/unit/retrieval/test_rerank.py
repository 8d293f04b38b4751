from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import write_cross_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tandem.errors import ModelError
from tandem.retrieval.rerank import Reranker

PAIRS = [("what is it?", "the quick brown fox"), ("what is it?", "a lazy dog"), ("where?", "numbers 0 1 2")]


def test_scores_are_the_models_whatever_the_batch_and_the_order(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "model")
    scores = Reranker(folder).scores(PAIRS)
    assert scores.dtype == np.float32
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        alone = [torch.sigmoid(model(**tokenizer(*pair, return_tensors="pt")).logits).item() for pair in PAIRS]
    np.testing.assert_allclose(scores, alone, atol=1e-5)
    np.testing.assert_allclose(Reranker(folder).scores(PAIRS[::-1]), scores[::-1], atol=1e-5)
    assert Reranker(folder).scores([]).shape == (0,)


def test_what_is_no_reranker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gives 3 scores, not one"):
        Reranker(write_cross_encoder(tmp_path / "three", labels=3))
    folder = write_cross_encoder(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights"):
        Reranker(folder)
    broken = write_cross_encoder(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="not a cross-encoder that can be loaded"):
        Reranker(broken)
