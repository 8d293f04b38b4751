"""The engine that runs everywhere: transformers' `generate` on left-padded batches of similar length."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.config.light_imports import skip_scipy
from tandem.config.machine import Processor, cores
from tandem.errors import ModelError
from tandem.models.engines.hardware import Dtype
from tandem.models.engines.prompting import encode, load_tokenizer
from tandem.models.engines.protocol import FinishReason, Generation, GenerationRequest
from tandem.specs.compare import EngineSpec

if TYPE_CHECKING:
    import torch

# Rows × (longest prompt + longest answer). On 2 cores a batch of 16 gave 2.8 × the throughput of single requests,
# and larger ones little more; memory for keys and values grows with this product.
BATCH_TOKENS = 8192
BATCH_ROWS = 16


class TransformersEngine:
    """A base model with PEFT adapters, switched by name, in this process."""

    name = "transformers"

    def __init__(
        self, spec: EngineSpec, model: Path, adapters: Mapping[str, Path], *, dtype: Dtype, processor: Processor
    ) -> None:
        skip_scipy()
        import torch
        from transformers import AutoModelForCausalLM

        # Ray allows a process as many as it has logical CPUs, and a job's driver one; those are for scheduling.
        torch.set_num_threads(spec.threads or cores())
        self._tokenizer = load_tokenizer(model)
        self._max_model_len = spec.max_model_len
        self._adapters: frozenset[str] = frozenset()
        self._device = "cuda" if processor.has_gpu else "cpu"
        base = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), trust_remote_code=False)
        self._end_ids = end_ids(base.generation_config.eos_token_id, self._tokenizer.eos_token_id)
        self._model: Any = base.to(self._device).eval()
        for name, path in adapters.items():
            self.load_adapter(name, path)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """See `Engine.generate`. Requests share a batch when adapter and sampling are the same."""
        prompts = encode(self._tokenizer, requests, max_model_len=self._max_model_len, adapters=self._adapters)
        done: dict[int, Generation] = {}
        for batch in plan_batches(requests, [len(ids) for ids in prompts]):
            answers = self._run([requests[i] for i in batch], [prompts[i] for i in batch])
            done.update(zip(batch, answers, strict=True))
        return [done[index] for index in range(len(requests))]

    def load_adapter(self, name: str, path: Path) -> None:
        """Add an adapter; never during `generate`.

        Raises:
            ModelError: It doesn't load; nothing has changed.
        """
        from peft import PeftConfig, PeftModelForCausalLM

        try:
            if not self._adapters:
                self._model = PeftModelForCausalLM(self._model, PeftConfig.from_pretrained(path), adapter_name=name)
            self._model.load_adapter(path, adapter_name=name, torch_device=self._device)
        except (ValueError, RuntimeError, OSError, KeyError, TypeError) as error:
            self._remove(name)
            raise ModelError(
                f"adapter {name!r} doesn't load: {str(error).splitlines()[0]}",
                where=str(path),
                remedy="was it trained on this base model?",
            ) from error
        self._model = self._model.to(self._device).eval()
        self._adapters |= {name}

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter; never during `generate`."""
        self._adapters -= {name}
        self._remove(name)

    def _remove(self, name: str) -> None:
        from peft import PeftModel

        if not isinstance(self._model, PeftModel):
            return
        if not self._adapters:
            # Without any adapter PEFT can't generate.
            self._model = self._model.unload()
        elif name in self._model.peft_config:
            self._model.set_adapter(next(iter(self._adapters)))
            self._model.delete_adapter(name)

    def close(self) -> None:
        """Drop the model; memory goes with it."""
        self._model = None

    def _run(self, requests: Sequence[GenerationRequest], prompts: Sequence[list[int]]) -> list[Generation]:
        import torch
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        pad = self._end_ids[0]
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])  # (batch, width)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        first = requests[0]
        sampled = first.temperature > 0
        # Complete on purpose: what a model's own generation_config suggests (penalties, top-k) must not leak in.
        config = GenerationConfig(
            max_new_tokens=max(request.max_tokens for request in requests),
            do_sample=sampled,
            eos_token_id=self._end_ids,
            pad_token_id=pad,
            **({"temperature": first.temperature, "top_p": first.top_p, "top_k": 0} if sampled else {}),
        )
        rows = _RowEnds(self._tokenizer, requests, width, self._end_ids)
        began = time.perf_counter()
        with torch.inference_mode(), self._adapter(first.adapter), _seeded(first.seed if sampled else None):
            self._model.generate(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=config,
                stopping_criteria=[rows],
            )
        latency_ms = (time.perf_counter() - began) * 1000
        return [
            Generation(text, len(prompt), tokens, reason, latency_ms)
            for prompt, (text, tokens, reason) in zip(prompts, rows.results, strict=True)
        ]

    def _adapter(self, name: str | None) -> contextlib.AbstractContextManager[Any]:
        if not self._adapters:
            return contextlib.nullcontext()
        if name is None:
            off: contextlib.AbstractContextManager[Any] = self._model.disable_adapter()
            return off
        self._model.set_adapter(name)
        return contextlib.nullcontext()


class _RowEnds:
    """Decides for each row of a batch when it is done: its own limit, its own stop strings, or an end token.

    A stopping criterion of transformers, which asks it after every token.
    """

    def __init__(
        self, tokenizer: Any, requests: Sequence[GenerationRequest], width: int, end_ids: Sequence[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._requests = requests
        self._width = width
        self._end_ids = frozenset(end_ids)
        self._results: list[tuple[str, int, FinishReason] | None] = [None] * len(requests)

    @property
    def results(self) -> list[tuple[str, int, FinishReason]]:
        """Text, tokens and reason of each row, once generation has ended."""
        return [result for result in self._results if result is not None]

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Rows that are done, as a bool tensor (batch,); input_ids are (batch, width + generated)."""
        import torch

        for row, generated in enumerate(input_ids[:, self._width :].tolist()):
            if self._results[row] is None:
                self._results[row] = self._end(self._requests[row], generated)
        return torch.tensor([result is not None for result in self._results], device=input_ids.device)

    def _end(self, request: GenerationRequest, generated: list[int]) -> tuple[str, int, FinishReason] | None:
        ended = generated[-1] in self._end_ids
        full = len(generated) >= request.max_tokens
        if not (ended or full or request.stop):
            return None
        text: str = self._tokenizer.decode(generated, skip_special_tokens=True)
        cut = min((at for at in map(text.find, request.stop) if at >= 0), default=None)
        if cut is not None:
            return text[:cut], len(generated), "stop"
        return (text, len(generated), "stop" if ended else "length") if ended or full else None


def plan_batches(requests: Sequence[GenerationRequest], lengths: Sequence[int]) -> list[list[int]]:
    """Which requests, by index, run together.

    Only equal adapters and sampling can share a batch; a seeded sample is drawn alone, or its neighbours would
    change it. Within that, neighbours by length, so that little padding is computed.

    Args:
        requests: What to generate.
        lengths: Prompt tokens of each.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, request in enumerate(requests):
        sampled = request.temperature > 0
        alone = index if sampled and request.seed is not None else None
        key = (request.adapter, request.temperature, request.top_p if sampled else None, alone)
        groups.setdefault(key, []).append(index)
    batches: list[list[int]] = []
    for group in groups.values():
        batch: list[int] = []
        answer = 0
        # Longest first: if memory is short, it shows at once.
        for index in sorted(group, key=lambda i: lengths[i], reverse=True):
            answer = max(answer, requests[index].max_tokens)
            rows = len(batch) + 1
            if batch and (rows > BATCH_ROWS or rows * (lengths[batch[0]] + answer) > BATCH_TOKENS):
                batches.append(batch)
                batch, answer = [], requests[index].max_tokens
            batch.append(index)
        batches.append(batch)
    return batches


def end_ids(*candidates: int | Iterable[int] | None) -> list[int]:
    """The tokens that end an answer, by what a model's and a tokenizer's configuration say; never empty."""
    found: list[int] = []
    for candidate in candidates:
        found += [candidate] if isinstance(candidate, int) else list(candidate or ())
    # A tokenizer without an end token: nothing ends the answer but its length. Padding may be any id, it is masked.
    return sorted(set(found)) or [0]


@contextlib.contextmanager
def _seeded(seed: int | None) -> Any:
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
