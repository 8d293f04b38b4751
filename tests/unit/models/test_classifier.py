"""A trained head gives what transformers and PEFT give, whatever shares its batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import write_cross_encoder, write_llama

from tandem.errors import ModelError
from tandem.models import classifier
from tandem.models.classifier import TextClassifier, classifier_labels
from tandem.specs.compare import EngineSpec

SPEC = EngineSpec(dtype="float32")
TEXTS = ("fox", "the lazy dog " * 3, "what is the default value of the setting?", "dog", "0123456789 " * 20)
LABELS = ("a", "b", "c")


def expected(model: Any, tokenizer: Any, text: str, max_length: int) -> Any:
    ids = tokenizer([text], truncation=True, max_length=max_length, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits[0].softmax(-1).tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cross_encoder(tmp_path_factory.mktemp("whole"), labels=3)


def test_probabilities_are_those_of_the_model(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(whole), AutoTokenizer.from_pretrained(whole)
    monkeypatch.setattr(classifier, "BATCH_TOKENS", 40)  # several batches, one text longer than that
    read = TextClassifier(SPEC, whole, None, LABELS, 16).read(TEXTS)
    for text, row in zip(TEXTS, read.probabilities, strict=True):
        assert row.tolist() == pytest.approx(expected(model, tokenizer, text, 16), abs=1e-5)
    assert max(read.tokens) == 16
    assert read.tokens[0] == len(tokenizer("fox")["input_ids"])
    assert all(latency > 0 for latency in read.latency_ms)


def test_an_adapter_stands_on_its_base_and_carries_its_head(tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = write_llama(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(3)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, pad_token_id=tokenizer.pad_token_id)
    tuned = get_peft_model(plain, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name or "score" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    tuned.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, pad_token_id=tokenizer.pad_token_id),
        str(tmp_path / "adapter"),
    )
    read = TextClassifier(SPEC, tmp_path / "adapter", base, LABELS, 32).read(TEXTS)
    for text, row in zip(TEXTS, read.probabilities, strict=True):
        assert row.tolist() == pytest.approx(expected(again, tokenizer, text, 32), abs=1e-5)
    assert len({round(float(row[0]), 4) for row in read.probabilities}) == len(TEXTS)
    # Where the base computes in bf16 the adapter's own weights are float32.
    half = TextClassifier(EngineSpec(dtype="bfloat16"), tmp_path / "adapter", base, LABELS, 32).read(TEXTS)
    assert half.probabilities == pytest.approx(read.probabilities, abs=0.05)


def test_labels_are_in_the_order_of_the_outputs(whole: Path, tmp_path: Path) -> None:
    named = {str(number): f"label {number}" for number in (10, 2, 0, 1)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": named}))
    assert classifier_labels(tmp_path) == ("label 0", "label 1", "label 2", "label 10")
    assert classifier_labels(tmp_path / "adapter") is None


def test_what_is_no_such_classifier_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it tells 3 labels apart, not 2"):
        TextClassifier(SPEC, whole, None, LABELS[:2], 16)
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(whole).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((whole / "config.json").read_text())
    with pytest.raises(ModelError, match="not a classifier that can be loaded"):
        TextClassifier(SPEC, tmp_path, None, LABELS, 16)
