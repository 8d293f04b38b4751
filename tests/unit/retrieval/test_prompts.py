"""Prompts before questions and passages, against what sentence-transformers itself does with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny_models import write_embedder

from tandem.errors import ModelError
from tandem.retrieval.embedder_files import fingerprint
from tandem.retrieval.embedding import Embedder
from tandem.retrieval.prompts import Prompts, find_prompts

QUERY, PASSAGE = "what is the default question: ", "the document: "
TEXTS = ["fox", "the quick brown fox jumps over the lazy dog", "a default value", "a setting and more " * 60]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "embedder")


@pytest.fixture
def prompted(model: Path, tmp_path: Path) -> Write:
    """Writes the embedder with prompts in its configuration."""

    def write(prompts: Any, *, include_prompt: bool = True, default: str | None = None) -> Path:
        folder = shutil.copytree(model, tmp_path / "prompted", dirs_exist_ok=True)
        change(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=default)
        change(folder / "1_Pooling" / "config.json", include_prompt=include_prompt)
        return folder

    return write


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("include_prompt", [True, False])
def test_vectors_are_those_of_sentence_transformers_encode_query_and_encode_document(
    prompted: Write, include_prompt: bool
) -> None:
    folder = prompted({"query": QUERY, "document": PASSAGE}, include_prompt=include_prompt)
    peer = SentenceTransformer(str(folder), device="cpu")
    ours = Embedder(folder, batch_size=2, passes=2)
    questions, passages = ours.encode(TEXTS, question=True), ours.encode(TEXTS)
    assert np.allclose(questions, peer.encode_query(TEXTS), atol=1e-5)
    assert np.allclose(passages, peer.encode_document(TEXTS), atol=1e-5)
    plain = Embedder(folder, batch_size=2, prompts=Prompts()).encode(TEXTS)
    for one, other in ((questions, passages), (questions, plain), (passages, plain)):
        assert not np.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("prompts", [{"passage": PASSAGE}, {"document": "", "corpus": PASSAGE}])
def test_a_passages_prompt_has_several_names(prompted: Write, prompts: dict[str, str]) -> None:
    folder = prompted(prompts)
    named = list(prompts)[-1]
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, prompt_name=named)
    assert np.allclose(Embedder(folder, batch_size=2).encode(TEXTS), expected, atol=1e-5)


def test_prompts_that_are_given_take_the_place_of_the_models_own(prompted: Write, tmp_path: Path) -> None:
    folder = prompted({"query": QUERY, "document": None, "corpus": PASSAGE, "code": "x"}, default="code")
    assert find_prompts(folder) == Prompts(QUERY, PASSAGE)
    assert find_prompts(folder, "query: ") == Prompts("query: ", PASSAGE)
    assert find_prompts(folder, "", "") == Prompts()
    peer = SentenceTransformer(str(folder), device="cpu")
    ours = Embedder(folder, batch_size=2, prompts=Prompts("query: ", "passage: "))
    assert np.allclose(ours.encode(TEXTS, question=True), peer.encode(TEXTS, prompt="query: "), atol=1e-5)
    assert np.allclose(ours.encode(TEXTS), peer.encode(TEXTS, prompt="passage: "), atol=1e-5)
    assert find_prompts(tmp_path) == Prompts()


def test_a_model_without_prompts_embeds_a_question_as_a_passage(model: Path) -> None:
    embedder = Embedder(model, batch_size=2)
    assert np.array_equal(embedder.encode(TEXTS, question=True), embedder.encode(TEXTS))
    assert np.allclose(embedder.encode(TEXTS), SentenceTransformer(str(model), device="cpu").encode(TEXTS), atol=1e-5)


def test_a_prompts_tokens_count_within_what_is_read(prompted: Write) -> None:
    embedder = Embedder(prompted({"query": QUERY, "document": ""}), batch_size=2)
    before = embedder.count_tokens([QUERY]) - embedder.count_tokens([""])
    assert before > 1
    assert embedder.count_tokens(TEXTS[:3], question=True) == embedder.count_tokens(TEXTS[:3]) + 3 * before
    assert embedder.count_tokens(TEXTS[3:], question=True) == embedder.max_tokens


def test_the_fingerprint_follows_prompts_and_what_the_tokenizer_is_told(prompted: Write, model: Path) -> None:
    prints = {fingerprint(model), fingerprint(prompted({"query": QUERY})), fingerprint(prompted({"query": "q: "}))}
    folder = prompted({"query": QUERY})
    change(folder / "tokenizer_config.json", do_lower_case=False)
    assert len(prints | {fingerprint(folder)}) == 4


@pytest.mark.parametrize("prompts", [["query: "], {"query": 3}, "query: "])
def test_prompts_that_cannot_be_read_are_said_so(prompted: Write, prompts: Any) -> None:
    folder = prompted(prompts)
    with pytest.raises(ModelError, match=r"config_sentence_transformers\.json: its prompts can't be read"):
        Embedder(folder, batch_size=2)
    (folder / "config_sentence_transformers.json").write_text("{")
    with pytest.raises(ModelError, match="prompts can't be read"):
        find_prompts(folder)
