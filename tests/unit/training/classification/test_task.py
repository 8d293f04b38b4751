from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import write_llama
from torch.nn import functional

from tandem.training.classification.task import Classification, LabelledExamples, class_weights, fresh_modules


def test_examples_come_back_as_they_were_written(tmp_path: Path) -> None:
    LabelledExamples.of([[5, 6, 7], [8]], [1, 0], [1.0, 2.0]).save(tmp_path / "set")
    examples = LabelledExamples.load(tmp_path / "set")
    assert (len(examples), list(examples.lengths), examples.loss_weight([0, 1])) == (2, [3, 1], 3.0)
    ids, attention, labels, weights = examples.collate([0, 1], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert attention.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert (labels.tolist(), weights.tolist()) == ([1, 0], [1.0, 2.0])


def test_balanced_weights_let_each_class_count_the_same() -> None:
    labels = [0] * 8 + [1] * 2
    weights = class_weights(labels, "balanced")
    assert weights[0] * 8 == weights[1] * 2 == pytest.approx(5.0)
    assert class_weights(labels, "none") == {0: 1.0, 1: 1.0}


def test_the_loss_is_the_weighted_sum_of_cross_entropies(tmp_path: Path) -> None:
    task = Classification(("no", "yes"), pad_id=0)
    model = task.load_model(str(write_llama(tmp_path / "llama"))).eval()
    examples = LabelledExamples.of([[5, 6, 7], [8]], [1, 0], [1.0, 3.0])
    summed, logits = task.loss(model, None, examples.collate([0, 1], pad_id=0))
    # Each text alone has no padding: it tells the same, so padding changes nothing.
    alone = [task.loss(model, None, examples.collate([i], pad_id=0))[1] for i in range(2)]
    assert torch.allclose(logits, torch.cat(alone), atol=1e-5)
    assert summed.item() == pytest.approx(
        float(
            functional.cross_entropy(alone[0], torch.tensor([1]))
            + 3 * functional.cross_entropy(alone[1], torch.tensor([0]))
        ),
        rel=1e-5,
    )
    assert model.config.id2label == {0: "no", 1: "yes"}


def test_measures_are_accuracy_and_macro_f1() -> None:
    examples = LabelledExamples.of([[1]] * 4, [0, 0, 1, 1], [1.0] * 4)
    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    figures = Classification(("a", "b"), 0).measure(logits, examples)
    assert figures["eval_accuracy"] == 0.75
    assert figures["eval_macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)


def test_what_the_base_lacks_is_trained_with_an_adapter(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForMaskedLM

    # A language model's base comes without the pooler that a classifier reads: frozen, it would stay random.
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=100, **small)).save_pretrained(tmp_path / "bert")
    task = Classification(("a", "b", "c"), 0)
    model = task.load_model(str(tmp_path / "bert"))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", **task.lora_options()))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad and "lora" not in name}
    assert {name.split(".modules_to_save")[0].removeprefix("base_model.model.") for name in trained} == {
        "classifier",
        "bert.pooler.dense",
    }


def test_a_head_of_several_layers_counts_as_one_and_the_base_layer_by_layer() -> None:
    missing = {"classifier.dense.weight", "classifier.out_proj.bias", "bert.pooler.dense.weight"}
    assert fresh_modules(missing, "bert") == ("bert.pooler.dense", "classifier")
