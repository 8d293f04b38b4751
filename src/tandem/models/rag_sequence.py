"""RAG-Sequence (Lewis et al. 2020, arXiv 2005.11401), by transformers' `RagSequenceForGeneration`.

A question encoder finds documents, each with a score d(z)ᵀq(x); a generator reads each of them alone with the
question; an answer is as likely as it is over all of them: p(y|x) = Σ_z p(z|x) Π_i p(y_i|x, z, y_<i), where p(z|x) is
the softmax of the scores. The documents come from outside, with their scores: transformers' own retriever, which needs
a FAISS index, isn't used.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.config.light_imports import skip_scipy
from tandem.config.machine import read_processor
from tandem.errors import InputError, ModelError
from tandem.models.engines.protocol import Generation, GenerationRequest, ScoredDocument

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

QUESTIONS = "question_encoder_tokenizer"
GENERATOR = "generator_tokenizer"
# Where `RagSequenceForGeneration` keeps the question encoder.
_ENCODER_PREFIX = r"^rag\.question_encoder\."
_QUESTIONS_AT_ONCE = 32


def check_rag_model(model: Path) -> None:
    """Whether a folder holds what `RagSequence` loads, by its configuration; weights aren't read.

    Args:
        model: As `tandem.models.loading.model_path` gives it.

    Raises:
        ModelError: It is another model, its question encoder isn't DPR's, or a tokenizer is missing.
    """
    config = json.loads((model / "config.json").read_text())
    remedy = "save a RagSequenceForGeneration and its RagTokenizer with save_pretrained"
    if config.get("model_type") != "rag":
        raise ModelError(f"a {config.get('model_type')} model, and no RAG model", where=str(model), remedy=remedy)
    encoder = config.get("question_encoder", {}).get("model_type")
    if encoder != "dpr":
        raise ModelError(
            f"its question encoder is {encoder}", where=str(model), remedy="only DPR's gives a question one vector"
        )
    for name in (QUESTIONS, GENERATOR):
        if not (model / name).is_dir():
            raise ModelError(f"{name} is missing", where=str(model), remedy=remedy)


def priors(scores: Sequence[float]) -> list[float]:
    """p(z|x) of documents: the softmax of their scores."""
    if not scores:
        return []
    best = max(scores)
    weights = [math.exp(score - best) for score in scores]
    return [weight / sum(weights) for weight in weights]


class QuestionEncoder:
    """A RAG model's question encoder (DPR, arXiv 2004.04906), alone.

    Args:
        model: The RAG model's folder.

    Raises:
        ModelError: Its weights aren't all there.
    """

    def __init__(self, model: Path) -> None:
        skip_scipy()
        from transformers import AutoTokenizer, DPRQuestionEncoder, RagConfig

        class Alone(DPRQuestionEncoder):  # type: ignore[misc]
            # Else transformers warns of each weight of the generator.
            _keys_to_ignore_on_load_unexpected = (r"^rag\.generator\.",)

        config = RagConfig.from_pretrained(model).question_encoder
        self._tokenizer = AutoTokenizer.from_pretrained(model / QUESTIONS, config=config, trust_remote_code=False)
        self._encoder, loaded = Alone.from_pretrained(
            model,
            config=config,
            key_mapping={_ENCODER_PREFIX: ""},
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        if loaded["missing_keys"]:
            # transformers would go on with random ones.
            raise ModelError(
                f"weights of its question encoder are missing: {min(loaded['missing_keys'])}", where=str(model)
            )
        self._encoder.eval()
        self._max_tokens = int(config.max_position_embeddings)
        self.dimension = int(config.projection_dim or config.hidden_size)

    def __repr__(self) -> str:
        return f"QuestionEncoder(dimension={self.dimension}, max_tokens={self._max_tokens})"

    def encode(self, texts: Sequence[str], *, question: bool = True) -> NDArray[np.float32]:  # noqa: ARG002 - as an embedder's
        """q(x) of questions, float32, (texts, dimension), of any length: to be compared by inner products.

        Args:
            texts: Any number.
            question: Changes nothing: whatever it encodes, it encodes as a question.
        """
        import numpy as np
        import torch

        vectors = [np.zeros((0, self.dimension), dtype=np.float32)]
        for begin in range(0, len(texts), _QUESTIONS_AT_ONCE):
            batch = self._tokenizer(
                list(texts[begin : begin + _QUESTIONS_AT_ONCE]),
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                vectors.append(self._encoder(batch["input_ids"], attention_mask=batch["attention_mask"])[0].numpy())
        return np.concatenate(vectors)

    def count_tokens(self, texts: Sequence[str], *, question: bool = True) -> int:  # noqa: ARG002 - as an embedder's
        """Tokens that `encode` reads of these texts, together."""
        tokens = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)
        return sum(map(len, tokens["input_ids"]))


class RagSequence:
    """The model in this process, in float32: answers are ranked by sums of logarithms.

    One call at a time.

    Args:
        model: A folder with config.json, safetensors and both tokenizers.
        beams: Hypotheses kept of each document.
        max_tokens: Of an answer, at most.

    Raises:
        ModelError: The decoder can't make so many tokens.
    """

    def __init__(self, model: Path, *, beams: int, max_tokens: int) -> None:
        skip_scipy()
        import torch
        from transformers import AutoTokenizer, RagSequenceForGeneration

        self._device = "cuda" if read_processor().has_gpu else "cpu"
        loaded: Any = RagSequenceForGeneration.from_pretrained(
            model, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        self._model = loaded.to(self._device).eval()
        self._config = config = loaded.config
        if not hasattr(config.generator, "bos_token_id"):
            config.generator.bos_token_id = None  # T5's: transformers 5.19 asks for it where it scores hypotheses
        self._beams = beams
        positions = getattr(config.generator, "max_position_embeddings", None)  # T5's are relative, without end
        if positions is not None and positions < max_tokens:
            raise ModelError(
                f"its decoder has {positions} positions, and engine.max_model_len is {max_tokens}",
                where=str(model),
                remedy=f"set engine.max_model_len to {positions}",
            )
        self._questions, self._tokenizer = (
            AutoTokenizer.from_pretrained(model / name, config=part, trust_remote_code=False)
            for name, part in ((QUESTIONS, config.question_encoder), (GENERATOR, config.generator))
        )

    def generate(self, request: GenerationRequest) -> Generation:
        """The answer that is likeliest over all documents, of those that are likely for each ("thorough decoding").

        Args:
            request: A question, as text, with its documents; greedy.

        Raises:
            InputError: The question is too long.
        """
        import torch

        assert isinstance(request.messages, str)
        began = time.perf_counter()
        ids, mask = (tensor.to(self._device) for tensor in self.contexts(request.messages, request.documents))
        # Not by the model's own `generate`: since transformers 5 its hypotheses are made without the mask, from padding
        # too, and it scores them by the configuration's number of documents, whatever number there is.
        hypotheses = self._model.generator.generate(
            ids,
            attention_mask=mask,
            num_beams=self._beams,
            num_return_sequences=self._beams,
            max_new_tokens=request.max_tokens,
            do_sample=False,
        ).unique(dim=0)  # (hypotheses, tokens)
        scores = torch.tensor([document.score for document in request.documents], device=self._device)
        likelihoods = [self._log_likelihood(ids, mask, scores, hypothesis) for hypothesis in hypotheses]
        answer: list[int] = hypotheses[likelihoods.index(max(likelihoods))].tolist()
        # After the token that starts every answer; hypotheses are padded to one length.
        generated = [token for token in answer[1:] if token != self._config.generator.pad_token_id]
        # Some generators force an end at the last token: whether the answer ended there by itself can't be told.
        full = len(generated) >= request.max_tokens
        text: str = self._tokenizer.decode(generated, skip_special_tokens=True)
        cut = min((at for at in map(text.find, request.stop) if at >= 0), default=None)
        return Generation(
            text[:cut],
            int(mask.sum()),
            len(generated),
            "length" if full and cut is None else "stop",
            (time.perf_counter() - began) * 1000,
        )

    def _log_likelihood(
        self, ids: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor, answer: torch.Tensor
    ) -> float:
        """log p(y|x); a token that begins every text, where the generator has one, isn't counted."""
        import torch

        with torch.inference_mode():
            out = self._model(
                context_input_ids=ids,
                context_attention_mask=mask,
                doc_scores=scores[None],
                labels=answer[None],
                n_docs=len(scores),
                exclude_bos_score=True,
            )
        return -float(out.loss)

    def contexts(self, question: str, documents: Sequence[ScoredDocument]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the generator reads, as transformers' `RagRetriever` composes it: ids and mask, (documents, tokens).

        Where a document is too long for the question to stand behind it, the document is cut; transformers cuts the
        question.

        Raises:
            InputError: The question leaves no room for a document.
        """
        # Through the question encoder's tokenizer and back (lower case, often), as the model was trained.
        asked = self._questions.decode(self._questions(question)["input_ids"], skip_special_tokens=True)
        tail = f"{self._config.doc_sep}{asked}"
        limit = self._config.max_combined_length
        room = limit - len(self._ids(tail))
        if room <= 0:
            raise InputError(f"the question has {limit - room} tokens; it must be shorter than {limit}")
        rows = [{"input_ids": self._context(document, tail, room)} for document in documents]
        padded = self._tokenizer.pad(rows, return_tensors="pt")
        return padded["input_ids"], padded["attention_mask"]

    def _context(self, document: ScoredDocument, tail: str, room: int) -> list[int]:
        config = self._config
        title = document.title.removeprefix('"').removesuffix('"')
        head = f"{getattr(config.generator, 'prefix', None) or ''}{title}{config.title_sep}{document.text}"
        ids = self._ids((head + tail).replace("  ", " "))
        if len(ids) <= config.max_combined_length:
            return ids
        head = head.replace("  ", " ")
        kept = self._tokenizer(head, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][:room]
        return self._ids(head[: kept[-1][1]] + tail)[: config.max_combined_length]

    def _ids(self, text: str) -> list[int]:
        # What looks like a special token in a document is text.
        ids: list[int] = self._tokenizer(text, split_special_tokens=True)["input_ids"]
        return ids
