"""Labels are weighed as a plain forward pass over prompt and label would, whatever shares their batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tandem.config.machine import Processor
from tandem.errors import InputError, ModelError
from tandem.models.engines import GenerationRequest
from tandem.models.engines.likelihood import LikelihoodEngine
from tandem.models.engines.prompting import token_ids
from tandem.specs.compare import EngineSpec

SPEC = EngineSpec(max_model_len=256)
LABELS = ("sport", "sport and games", "x", "the lazy dog")
TEXTS = ("a", "why is the sky blue?", "what? " * 9, "0123456789")


def ask(text: str, max_tokens: int = 12) -> GenerationRequest:
    return GenerationRequest([{"role": "user", "content": text}], max_tokens)


def open_it(model: Path, labels: tuple[str, ...] = LABELS) -> LikelihoodEngine:
    return LikelihoodEngine(SPEC, model, labels, dtype="float32", processor=Processor("x86_64", frozenset()))


@pytest.fixture(scope="module")
def engine(tiny_llama):
    engine = open_it(tiny_llama)
    yield engine
    engine.close()


def plain(model: Path, text: str, label: str) -> float:
    """log p(label, end | prompt) by one pass over all of it."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    prompt = token_ids(tokenizer, ask(text).messages)
    answer = [*tokenizer(label, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logs = loaded(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return sum(float(logs[len(prompt) + at - 1, token]) for at, token in enumerate(answer))


def test_a_weight_is_the_log_probability_of_the_label_and_the_end(engine, tiny_llama) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    weights = engine.weigh([token_ids(tokenizer, ask(text).messages) for text in TEXTS])
    assert weights.shape == (len(TEXTS), len(LABELS))
    for row, text in zip(weights, TEXTS, strict=True):
        assert row.tolist() == pytest.approx([plain(tiny_llama, text, label) for label in LABELS], abs=2e-3)


def test_the_answer_is_the_likeliest_label_alone_and_in_a_batch(engine, tiny_llama) -> None:
    together = engine.generate([ask(text) for text in TEXTS])
    for text, given in zip(TEXTS, together, strict=True):
        assert given.text == max(LABELS, key=lambda label: plain(tiny_llama, text, label))
        (alone,) = engine.generate([ask(text)])
        assert (alone.text, alone.prompt_tokens) == (given.text, given.prompt_tokens)
        assert given.finish_reason == "stop"
        assert given.latency_ms > 0


def test_a_prompt_that_leaves_no_room_is_refused(engine) -> None:
    with pytest.raises(InputError, match="request 1"):
        engine.generate([ask("a"), ask("0 " * 300)])


def test_a_label_without_a_token_is_refused(tiny_llama) -> None:
    with pytest.raises(ModelError, match="makes nothing of the label ''"):
        open_it(tiny_llama, ("a", ""))
