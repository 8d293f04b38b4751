"""Which of some given answers a language model finds most likely: nothing is generated, every answer is weighed.

An answer's weight is log p(answer, end | prompt): the sum of the log-probabilities of its tokens and of the end after
them. That is the probability that greedy or sampled decoding gives exactly this answer, so sums of answers of different
length are comparable as they are. Divided by length they would be no probabilities any more, and would favour long
labels, whose later tokens follow from the first; without the end, a label that begins another one would always win
over it. Nothing is calibrated: what a model prefers whatever the text says (Zhao et al. 2021, arXiv 2102.09690) is
part of what is measured.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.config.light_imports import skip_scipy
from tandem.config.machine import Processor, cores
from tandem.errors import ModelError
from tandem.models.batching import by_length
from tandem.models.engines.hardware import Dtype
from tandem.models.engines.prompting import encode, load_tokenizer
from tandem.models.engines.protocol import Generation, GenerationRequest
from tandem.models.engines.transformers import end_ids
from tandem.specs.compare import EngineSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


# Prompts × longest. A processor computes one prompt as fast as sixteen, and pays for the memory of more.
BATCH_TOKENS, BATCH_TOKENS_GPU = 1024, 16_384


class LikelihoodEngine:
    """An engine whose answer is the likeliest of the given ones; equal ones go to the first.

    Args:
        spec: Lengths and threads.
        model: A folder with config.json, safetensors and a tokenizer with a chat template.
        answers: What it may answer; at least one.
        dtype: To compute in. Sums are made in float32.
        processor: This machine.

    Raises:
        ModelError: The model has no chat template, or its tokenizer has no token for an answer.
    """

    name = "transformers"

    def __init__(
        self, spec: EngineSpec, model: Path, answers: Sequence[str], *, dtype: Dtype, processor: Processor
    ) -> None:
        skip_scipy()
        import torch
        from transformers import AutoModelForCausalLM

        # Ray allows a process as many as it has logical CPUs, and a job's driver one; those are for scheduling.
        torch.set_num_threads(spec.threads or cores())
        self._tokenizer = load_tokenizer(model)
        self._max_model_len = spec.max_model_len
        self._device = "cuda" if processor.has_gpu else "cpu"
        self._batch_tokens = BATCH_TOKENS_GPU if processor.has_gpu else BATCH_TOKENS
        self._answers = tuple(answers)
        self._tokens = [self._tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        for answer, tokens in zip(answers, self._tokens, strict=True):
            if not tokens:
                raise ModelError(f"its tokenizer makes nothing of the label {answer!r}", where=str(model))
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), trust_remote_code=False)
        self._ends = end_ids(loaded.generation_config.eos_token_id, self._tokenizer.eos_token_id)
        self._model: Any = loaded.to(self._device).eval()
        self._takes = frozenset(inspect.signature(self._model.forward).parameters)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """See `Engine.generate`. Of a request only its messages count; `max_tokens` must have room for any answer.

        Raises:
            InputError: Prompt and `max_tokens` together exceed ``max_model_len``; nothing was weighed.
        """
        prompts = encode(self._tokenizer, requests, max_model_len=self._max_model_len, adapters=())
        done: dict[int, Generation] = {}
        for batch in by_length(list(map(len, prompts)), self._batch_tokens):
            began = time.perf_counter()
            chosen = self.weigh([prompts[index] for index in batch]).argmax(axis=1).tolist()
            latency_ms = (time.perf_counter() - began) * 1000
            for index, best in zip(batch, chosen, strict=True):
                tokens = len(self._tokens[best]) + 1
                done[index] = Generation(self._answers[best], len(prompts[index]), tokens, "stop", latency_ms)
        return [done[index] for index in range(len(requests))]

    def weigh(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """log p(answer, end | prompt) of every answer after every prompt.

        Prompts are read once; each answer then goes on from there.

        Args:
            prompts: Token ids; together in memory, padded to the longest.

        Returns:
            float32, (prompts, answers).
        """
        import torch

        width = max(map(len, prompts))
        pad = self._ends[0]
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=self._device)  # (batch, width)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        with torch.inference_mode():
            read = self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), logits_to_keep=1)
            first = read.logits[:, -1].float().log_softmax(-1)  # (batch, vocabulary)
            columns = [self._weigh_one(tokens, first, read.past_key_values, mask) for tokens in self._tokens]
        weights: NDArray[np.float32] = torch.stack(columns, dim=1).cpu().numpy()
        return weights

    def _weigh_one(self, tokens: Sequence[int], first: torch.Tensor, cache: Any, mask: torch.Tensor) -> torch.Tensor:
        """Of one answer after every prompt: float32, (batch,)."""
        import torch

        rows = len(mask)
        answer = torch.tensor(tokens, device=self._device).expand(rows, -1)  # (batch, tokens)
        places = mask.sum(-1, keepdim=True) + torch.arange(len(tokens), device=self._device)
        # A copy, since reading on changes it, and not every kind of cache can be cut back.
        read = self._forward(
            answer, torch.cat([mask, torch.ones_like(answer)], dim=1), places, past_key_values=copy.deepcopy(cache)
        )
        after = read.logits.float().log_softmax(-1)  # (batch, tokens, vocabulary)
        inner = after[:, :-1].gather(-1, answer[:, 1:, None]).sum(dim=(1, 2))
        weight: torch.Tensor = first[:, tokens[0]] + inner + after[:, -1, self._ends].logsumexp(-1)
        return weight

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, **options: Any) -> Any:
        known = {"position_ids": places, **options}
        # Models without positions, or without a choice of logits, don't know the words.
        known = {name: value for name, value in known.items() if name in self._takes}
        return self._model(input_ids=ids, attention_mask=mask, use_cache=True, **known)

    def close(self) -> None:
        """Drop the model; memory goes with it."""
        self._model = None


def open_likelihoods(spec: EngineSpec, model: Path, answers: Sequence[str]) -> LikelihoodEngine:
    """Load what weighs answers, in the number type that this machine reads fastest in.

    Args:
        spec: Number type, lengths, threads.
        model: As for `LikelihoodEngine`.
        answers: What it may answer.

    Raises:
        ModelError: See `LikelihoodEngine`.
    """
    from tandem.config.machine import read_processor
    from tandem.models.engines.hardware import choose_reading_dtype

    processor = read_processor()
    dtype = choose_reading_dtype(spec.dtype, processor)
    return LikelihoodEngine(spec, model, answers, dtype=dtype, processor=processor)
