from __future__ import annotations

from pathlib import Path

from tiny_models import write_embedder

from tandem.retrieval.pytorch_model import PyTorchModel, _pad_in_steps


def test_passes_have_few_lengths_and_none_that_the_model_has_no_positions_for(tmp_path: Path) -> None:
    by_pytorch = PyTorchModel(write_embedder(tmp_path / "embedder"), on_gpu=False)
    texts = ["dog " * words for words in range(1, 140, 3)]
    lengths = {by_pytorch.model.preprocess([text])["input_ids"].shape[1] for text in texts}
    assert lengths == set(range(8, 129, 8))
    module = by_pytorch.model[0]
    module.processing_kwargs = {}
    _pad_in_steps(module, 127)
    assert "text" not in module.processing_kwargs
