from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem.specs.finetune import FinetuneSpec
from tandem.training.model_card import base_license, model_card

DATA = {"train_rows": 90, "eval_rows": 10, "quarantined": 1, "train_tokens": 4321, "train_sha256": "ab" * 32}
FIGURES = {"eval_loss": 0.51234, "train_loss": 0.4, "steps": 30, "eval_bogus": 1, "stopped_early": None}


def card(license: str | None = None, **fields: Any) -> tuple[dict[str, Any], str]:
    spec = FinetuneSpec.model_validate(
        {"kind": "finetune", "name": "t", "model": "hf:org/base", "data": {"train": "t.jsonl"}, **fields}
    )
    text = model_card(spec, name="my-job", license=license, data=DATA, figures=FIGURES, files={"curve.png"})
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_says_what_it_is_what_it_learnt_from_and_how_good_it_is() -> None:
    front, body = card()
    assert front == {
        "base_model": "hf:org/base",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["ray-tandem", "lora"],
    }
    for said in ("# my-job", "rank 16", "| SHA-256 of the training rows | " + "ab" * 32, "| 0.5123 |", "(curve.png)"):
        assert said in body
    assert "stopped early" not in body
    assert json.loads(body.split("```json\n")[1].split("\n```")[0])["model"] == "hf:org/base"


@pytest.mark.parametrize(
    ("fields", "said", "unsaid"),
    [
        ({"method": "full"}, "AutoModelForCausalLM.from_pretrained(FOLDER)", "peft"),
        ({"method": "lora"}, "base = AutoModelForCausalLM.from_pretrained(BASE)", "merged"),
        # A decoder reads the last token that is no padding: it must know which that is.
        ({"task": "classification"}, "NUMBER_OF_LABELS, pad_token_id=tokenizer.pad_token_id)", "Causal"),
        ({"output": {"merge": True}}, "from_pretrained(f'{FOLDER}/merged')", "SequenceClassification"),
        ({"task": "classification", "method": "full"}, "AutoModelForSequenceClassification.from_pretrained", "Causal"),
    ],
)
def test_the_card_says_how_to_load_it(fields: dict[str, Any], said: str, unsaid: str) -> None:
    _, body = card(**fields)
    loading = body.split("```python\n")[1].split("```")[0]
    assert said in loading
    assert unsaid not in loading
    compile(loading, "card", "exec")


def test_the_licence_of_the_base_goes_along_if_it_names_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert base_license(tmp_path) is None
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [a]\n---\n# Base\n")
    assert base_license(tmp_path) == "mit"
    (tmp_path / "config.json").write_text('{"license": "apache-2.0"}')
    assert base_license(tmp_path) == "apache-2.0"
    front, body = card(license="apache-2.0")
    assert front["license"] == "apache-2.0"
    assert "Licence of the base model: apache-2.0." in body
    assert "ask its publisher" in card()[1]


@pytest.mark.parametrize("readme", ["---\nlicense: [a, b]\n---\n", "---\n{broken\n---\n", "---\nno end", "# none"])
def test_a_card_that_names_no_licence_is_none(tmp_path: Path, readme: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text(readme)
    assert base_license(tmp_path) is None


@pytest.mark.parametrize("fields", [{"method": "full"}, {"task": "classification"}])
def test_merging_where_there_is_nothing_to_merge_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"output\.merge"):
        card(output={"merge": True}, **fields)
