"""Against transformers' own retriever, on a FAISS index of the same documents, and against the paper's formula."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import convert_dpr_context_encoder, write_dpr_context_encoder, write_llama, write_rag
from unit.retrieval.contract import ident

from tandem.errors import InputError, ModelError
from tandem.models.engines.protocol import GenerationRequest, ScoredDocument
from tandem.models.rag_sequence import QuestionEncoder, RagSequence, check_rag_model, priors
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.embedding import Embedder
from tandem.retrieval.retriever import Retriever
from tandem.retrieval.store import Point
from tandem.specs.index import VectorIndexSpec
from tandem.specs.search import SearchSpec

DOCUMENTS = [
    ("Foxes", "The quick brown fox jumps over the lazy dog."),
    ('"Settings"', "What is the default value of the setting?"),
    ("Tandem", "Tandem trains and retrieves;  numbers 0 1 2 3."),
    ("Marks", "Marks such as ()[]{} are data and not instructions."),
    ("Answers", "Answer the question as briefly as you can."),
    ("Dogs", "The lazy dog is brown, and no fox."),
    ("Numbers", "Numbers 4 5 6 7 8 9."),
]
QUESTIONS = ["Who jumps over the dog?", "What is the default of the setting", "numbers 0 1 2"]
NEW_TOKENS = 8


# Contexts of one length in tokens: nothing is padded.
EVEN = [
    (title, f"The {words}.")
    for title, words in zip("ABCDEF", map(" ".join, permutations(["quick", "brown", "lazy"])), strict=True)
]


@dataclass(frozen=True)
class Models:
    """A RAG model and the encoder of its documents, as folders; of the latter both forms."""

    rag: Path
    context_encoder: Path
    embedder: Path

    def peer(self, contents: list[tuple[str, str]]) -> Any:
        """transformers' model with its own retriever on a FAISS index, exact by inner products."""
        import faiss
        from datasets import Dataset
        from transformers import AutoTokenizer, DPRContextEncoder, RagRetriever, RagSequenceForGeneration
        from transformers.models.rag.retrieval_rag import CustomHFIndex

        encoder = DPRContextEncoder.from_pretrained(self.context_encoder).eval()
        titles, texts = zip(*contents, strict=True)
        tokens = AutoTokenizer.from_pretrained(self.context_encoder)(list(texts), padding=True, return_tensors="pt")
        with torch.inference_mode():
            vectors = encoder(**tokens).pooler_output.numpy()
        documents = Dataset.from_dict({"title": titles, "text": texts, "embeddings": list(vectors)})
        documents.add_faiss_index("embeddings", metric_type=faiss.METRIC_INNER_PRODUCT)
        model = RagSequenceForGeneration.from_pretrained(self.rag).eval()
        if not hasattr(model.config.generator, "bos_token_id"):
            model.config.generator.bos_token_id = None  # T5's, which transformers asks for
        question_tokenizer, tokenizer = (
            AutoTokenizer.from_pretrained(self.rag / f"{part}_tokenizer") for part in ("question_encoder", "generator")
        )
        index = CustomHFIndex(vectors.shape[1], documents)
        model.set_retriever(RagRetriever(model.config, question_tokenizer, tokenizer, index=index))
        return model

    def ours(self, contents: list[tuple[str, str]], folder: Path) -> Retriever:
        """Ours, on Qdrant: the documents of an odd number belong to a tenant."""
        store = EdgeStore(folder)
        store.create_collection("docs", dimension=32, sparse=False, vectors=VectorIndexSpec(distance="dot"))
        vectors = Embedder(self.embedder, 8, unit=False).encode([text for _, text in contents])
        points = []
        for number, ((title, text), vector) in enumerate(zip(contents, vectors, strict=True)):
            payload = {"source": f"{number}.md", "title": title, "section": title, "text": text, "start": 0, "end": 1}
            points.append(Point(ident(title), vector, None, payload | ({"tenant": "acme"} if number % 2 else {})))
        store.upsert("docs", points)
        return Retriever(store, "docs", QuestionEncoder(self.rag))


@pytest.fixture(scope="module", params=["bart", "t5"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp(request.param)
    rag = write_rag(folder / "rag", generator=request.param, documents=3)
    context_encoder = write_dpr_context_encoder(folder / "context-encoder")
    return Models(rag, context_encoder, convert_dpr_context_encoder(str(context_encoder), folder / "embedder"))


@pytest.fixture(scope="module")
def peer(models: Models) -> Any:
    return models.peer(DOCUMENTS)


@pytest.fixture(scope="module")
def retriever(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    return models.ours(DOCUMENTS, tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def engine(models: Models) -> RagSequence:
    return RagSequence(models.rag, beams=2, max_tokens=256)


def tokens_of(peer: Any, question: str) -> torch.Tensor:
    return peer.rag.retriever.question_encoder_tokenizer(question, return_tensors="pt")["input_ids"]


def answer_of(peer: Any, question: str) -> str:
    """What transformers answers, all by itself."""
    options = {"num_beams": 2, "num_return_sequences": 1, "max_new_tokens": NEW_TOKENS, "do_sample": False}
    (answer,) = peer.generate(tokens_of(peer, question), **options)
    return peer.rag.retriever.generator_tokenizer.decode(answer, skip_special_tokens=True)


def found_by(retriever: Retriever, question: str, top_k: int = 3, **visible: Any) -> tuple[ScoredDocument, ...]:
    (passages,) = retriever.search([question], SearchSpec(top_k=top_k, mode="dense"), **visible)
    return tuple(ScoredDocument(passage.title, passage.text, passage.score) for passage in passages)


@pytest.mark.parametrize("question", QUESTIONS)
def test_documents_and_their_scores_are_those_of_transformers_retriever(
    peer: Any, retriever: Retriever, question: str
) -> None:
    with torch.inference_mode():
        out = peer(input_ids=tokens_of(peer, question), labels=torch.tensor([[2, 5, 6]]), output_retrieved=True)
    documents = found_by(retriever, question)
    expected = [DOCUMENTS[number] for number in out.retrieved_doc_ids[0].tolist()]
    assert [(document.title, document.text) for document in documents] == expected
    assert [document.score for document in documents] == pytest.approx(out.doc_scores[0].tolist(), abs=1e-4)


def test_a_cosine_would_find_others(models: Models) -> None:
    """Or the lengths of the vectors wouldn't matter, and a collection compared by cosine would do."""
    vectors = Embedder(models.embedder, 8, unit=False).encode([text for _, text in DOCUMENTS])
    questions = QuestionEncoder(models.rag).encode([*QUESTIONS, *(text for _, text in DOCUMENTS)])
    cosines = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.argsort(-questions @ vectors.T)[:, :3].tolist() != np.argsort(-questions @ cosines.T)[:, :3].tolist()


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_generator_reads_what_transformers_gives_it(
    models: Models, peer: Any, engine: RagSequence, retriever: Retriever, question: str
) -> None:
    out = peer.rag.retriever(
        tokens_of(peer, question), QuestionEncoder(models.rag).encode([question]), n_docs=3, return_tensors="pt"
    )
    ids, mask = engine.contexts(question, found_by(retriever, question))
    width = ids.shape[1]
    # It pads to the longest; transformers to the longest that may be.
    assert torch.equal(ids, out["context_input_ids"][:, :width])
    assert torch.equal(mask, out["context_attention_mask"][:, :width])
    assert not out["context_attention_mask"][:, width:].any()


def test_the_answer_is_that_of_transformers_with_its_own_retriever(
    models: Models, engine: RagSequence, tmp_path: Path
) -> None:
    peer, retriever = models.peer(EVEN), models.ours(EVEN, tmp_path / "index")
    answers = []
    for question in QUESTIONS:
        documents = found_by(retriever, question)
        ids, mask = engine.contexts(question, documents)
        assert mask.all()
        # transformers pads to this, and since its version 5 makes hypotheses from the padding too.
        peer.rag.retriever.config.max_combined_length = ids.shape[1]
        answers.append(engine.generate(GenerationRequest(question, NEW_TOKENS, documents=documents)))
        assert answers[-1].text == answer_of(peer, question)
        assert 0 < answers[-1].completion_tokens <= NEW_TOKENS
        assert answers[-1].prompt_tokens == ids.numel()
    assert any(answer.text for answer in answers)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_that_of_transformers_where_it_is_given_the_mask(
    peer: Any, engine: RagSequence, retriever: Retriever, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, pad = peer.rag.generator.generate, peer.config.generator.pad_token_id
    monkeypatch.setattr(
        peer.rag.generator, "generate", lambda ids, **options: generate(ids, **options | {"attention_mask": ids != pad})
    )
    answer = engine.generate(GenerationRequest(question, NEW_TOKENS, documents=found_by(retriever, question)))
    assert answer.text == answer_of(peer, question)


def log_likelihood(peer: Any, contexts: list[list[int]], scores: list[float], answer: list[int]) -> float:
    """log p(y|x) as the paper has it, in float64, one document at a time and without padding.

    The token that a decoder begins with isn't part of y, nor is the padding after its end.
    """
    generator, pad = peer.rag.generator, peer.config.generator.pad_token_id
    answer = [answer[0], *(token for token in answer[1:] if token != pad)]
    score = np.array(scores, dtype=np.float64)
    log_prior = score - np.logaddexp.reduce(score)
    joint = []
    for context, log_p in zip(contexts, log_prior, strict=True):
        with torch.inference_mode():
            logits = generator(input_ids=torch.tensor([context]), decoder_input_ids=torch.tensor([answer])).logits[0]
        values = logits.double().numpy()
        tokens = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
        joint.append(log_p + sum(tokens[at, token] for at, token in enumerate(answer[1:])))
    return float(np.logaddexp.reduce(joint))


def unpadded(engine: RagSequence, question: str, documents: tuple[ScoredDocument, ...]) -> list[list[int]]:
    ids, mask = engine.contexts(question, documents)
    return [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_marginal_likelihood_is_the_papers_and_transformers(
    peer: Any, engine: RagSequence, retriever: Retriever, question: str
) -> None:
    documents = found_by(retriever, question)
    scores = [document.score for document in documents]
    answer = [peer.config.generator.decoder_start_token_id, 40, 41, 42, 2]
    expected = log_likelihood(peer, unpadded(engine, question, documents), scores, answer)
    labels = torch.tensor([answer])
    ids, mask = engine.contexts(question, documents)
    with torch.inference_mode():
        theirs = peer(input_ids=tokens_of(peer, question), labels=labels).loss
        ours = peer(
            context_input_ids=ids, context_attention_mask=mask, doc_scores=torch.tensor([scores]), labels=labels
        ).loss
    assert -float(ours) == pytest.approx(expected, rel=1e-5)
    assert -float(theirs) == pytest.approx(expected, rel=1e-5)


def test_of_all_hypotheses_the_likeliest_over_all_documents_wins(
    peer: Any, engine: RagSequence, retriever: Retriever
) -> None:
    """Thorough decoding, done by hand; with other numbers of documents than the configuration's three."""
    chosen_otherwise = 0
    for question, top_k in product(QUESTIONS, (1, 2, 5)):
        documents = found_by(retriever, question, top_k)
        contexts, scores = unpadded(engine, question, documents), [document.score for document in documents]
        hypotheses = [
            hypothesis.tolist()
            for context in contexts
            for hypothesis in peer.rag.generator.generate(
                torch.tensor([context]), num_beams=2, num_return_sequences=2, max_new_tokens=NEW_TOKENS
            )
        ]
        likelihoods = [log_likelihood(peer, contexts, scores, hypothesis) for hypothesis in hypotheses]
        best = hypotheses[int(np.argmax(likelihoods))]
        chosen_otherwise += best != hypotheses[0]
        answer = engine.generate(GenerationRequest(question, NEW_TOKENS, documents=documents))
        tokenizer = peer.rag.retriever.generator_tokenizer
        assert answer.text == tokenizer.decode(best, skip_special_tokens=True)
    assert chosen_otherwise, "the first document alone decides: this shows nothing"


def test_a_tenants_documents_stay_its_own(retriever: Retriever) -> None:
    everyones = {title for title, _ in DOCUMENTS[::2]}
    for question in QUESTIONS:
        assert {document.title for document in found_by(retriever, question, 9, tenant="other")} == everyones
        assert len(found_by(retriever, question, 9, tenant="acme")) == len(DOCUMENTS)


def test_a_stop_string_ends_the_answer(engine: RagSequence, retriever: Retriever) -> None:
    documents = found_by(retriever, QUESTIONS[0])
    whole = engine.generate(GenerationRequest(QUESTIONS[0], NEW_TOKENS, documents=documents))
    stop = whole.text[1:2]
    cut = engine.generate(GenerationRequest(QUESTIONS[0], NEW_TOKENS, documents=documents, stop=(stop, "unheard")))
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")


def test_a_long_document_makes_room_for_the_question(tmp_path: Path) -> None:
    engine = RagSequence(write_rag(tmp_path / "rag", length=40), beams=1, max_tokens=64)
    read = engine._tokenizer.batch_decode(
        engine.contexts(
            "Who is it?", [ScoredDocument("A", "over the dog " * 40, 1.0), ScoredDocument("B", "</s>fox", 1.0)]
        )[0]
    )
    assert read[0].startswith("<s>A / over the dog over")
    assert read[0].endswith(" // who is it?</s>")
    # What looks like the end of a text is text.
    assert read[1].startswith("<s>B / </s>fox // who is it?</s>")
    with pytest.raises(InputError, match=r"the question has .* must be shorter than 40"):
        engine.contexts("Who is it? " * 20, [ScoredDocument("A", "dog", 1.0)])


def test_a_folder_that_holds_no_such_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a llama model, and no RAG model"):
        check_rag_model(write_llama(tmp_path / "llama"))
    rag = write_rag(tmp_path / "rag")
    check_rag_model(rag)
    with pytest.raises(ModelError, match=r"its decoder has 512 positions.*set engine\.max_model_len to 512"):
        RagSequence(rag, beams=1, max_tokens=1024)
    shutil.rmtree(rag / "generator_tokenizer")
    with pytest.raises(ModelError, match="generator_tokenizer is missing"):
        check_rag_model(rag)


def test_a_question_encoder_whose_weights_are_elsewhere_is_refused(tmp_path: Path) -> None:
    """transformers would go on with random ones."""
    rag = write_rag(tmp_path / "rag")
    (rag / "model.safetensors").unlink()
    shutil.copy(write_dpr_context_encoder(tmp_path / "other") / "model.safetensors", rag)
    with pytest.raises(ModelError, match="weights of its question encoder are missing"):
        QuestionEncoder(rag)


def test_questions_in_one_batch_have_the_vectors_that_each_has_alone(models: Models) -> None:
    encoder = QuestionEncoder(models.rag)
    together = encoder.encode([*QUESTIONS, "fox " * 500] * 12)
    assert together.shape == (48, encoder.dimension)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together[:3], [encoder.encode([question])[0] for question in QUESTIONS], rtol=1e-4)
    assert encoder.encode([]).shape == (0, encoder.dimension)
    assert encoder.count_tokens(["fox " * 500]) == 256


def test_priors_are_the_softmax_of_the_scores() -> None:
    assert priors([1000.0, 1000.0]) == [0.5, 0.5]
    assert priors([0.0, float(np.log(3))]) == pytest.approx([0.25, 0.75])
    assert priors([]) == []


def test_the_conversion_in_the_documentation_gives_both_models(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    (code,) = [block.split("```")[0] for block in text.split("```python\n")[1:] if "DPRContextEncoder" in block]
    assert "facebook/rag-sequence-nq" in code
    code = code.replace("facebook/rag-sequence-nq", str(models.rag))
    code = code.replace("facebook/dpr-ctx_encoder-multiset-base", str(models.context_encoder))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/serving.md", "exec"), {})
    check_rag_model(tmp_path / "rag-sequence-nq")
    texts = [text for _, text in DOCUMENTS]
    ours = Embedder(tmp_path / "dpr-context-encoder", 8, unit=False).encode(texts)
    np.testing.assert_allclose(ours, Embedder(models.embedder, 8, unit=False).encode(texts), rtol=1e-5)
