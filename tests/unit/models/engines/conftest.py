from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import write_adapter, write_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_llama(tmp_path_factory.mktemp("tiny-llama"))
    diversify(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: write_adapter(tmp_path_factory.mktemp(name), tiny_llama, seed=seed)
        for seed, name in enumerate(("one", "two"), start=1)
    }


def diversify(folder: Path) -> None:
    """Large weights and a head of its own, so that answers depend on the whole prompt and no two tokens tie.

    As written, the model repeats its last token, and a test of padding couldn't fail.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
