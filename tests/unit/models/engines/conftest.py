from __future__ import annotations

from pathlib import Path

import pytest
from stand_ins.tiny_llama import make_adapter, make_model


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: make_adapter(tiny_llama, tmp_path_factory.mktemp(name), seed=seed)
        for seed, name in enumerate(("one", "two"), start=1)
    }
