from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_embedder
from transformers import AutoTokenizer, BloomConfig, Gemma3TextConfig, GPT2Config, LlamaConfig, MambaConfig, Qwen2Config

from tandem.errors import ModelError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.methods.positions import check_max_length, position_limit, read_config

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 1024, "rope_theta": 1e4,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}


def spec(max_length: int) -> FinetuneSpec:
    return FinetuneSpec.model_validate(
        {
            "kind": "finetune",
            "name": "t",
            "model": "org/base",
            "data": {"train": "t.jsonl"},
            "schedule": {"max_length": max_length},
        }
    )


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (GPT2Config(n_positions=1024), 1024),
        (LlamaConfig(max_position_embeddings=2048), 2048),
        (LlamaConfig(max_position_embeddings=2048, rope_parameters=LINEAR), 4096),
        (Qwen2Config(max_position_embeddings=1024, rope_parameters=YARN), 4096),
        # Llama 3.1 states the extended length itself.
        (LlamaConfig(max_position_embeddings=16384, rope_parameters=LLAMA3), 16384),
        (
            Gemma3TextConfig(
                max_position_embeddings=2048, rope_parameters={"full_attention": LINEAR, "sliding_attention": PLAIN}
            ),
            4096,
        ),
        (BloomConfig(), None),
        (MambaConfig(), None),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_a_model_reads_as_many_tokens_as_it_has_positions_or_as_their_scaling_makes_of_them(
    config: Any, limit: int | None
) -> None:
    assert position_limit(config) == limit


def test_longer_rows_are_refused_and_the_longest_possible_named() -> None:
    config = GPT2Config(n_positions=1024)
    check_max_length(spec(1024), config)
    with pytest.raises(ModelError, match="1025, and the model reads at most 1024 tokens") as told:
        check_max_length(spec(1025), config)
    assert told.value.remedy == "set schedule.max_length=1024 or less"
    check_max_length(spec(100_000), BloomConfig())


def test_an_encoders_tokenizer_may_know_a_lower_limit(tmp_path: Path) -> None:
    bert = write_embedder(tmp_path / "bert")  # 256 positions
    config, tokenizer = read_config(bert), AutoTokenizer.from_pretrained(bert)
    tokenizer.model_max_length = 254
    check_max_length(spec(256), config)
    with pytest.raises(ModelError, match="the model reads at most 254 tokens"):
        check_max_length(spec(256), config, tokenizer)


def test_a_model_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nobody-made-it"}')
    with pytest.raises(ModelError, match=r"its config\.json can't be used: .*nobody-made-it"):
        read_config(tmp_path)
