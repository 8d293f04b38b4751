"""Where the tasks differ: the model's class, the rows, the loss, what is measured. Everything else is one loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tandem.training.classification.task import Classification
from tandem.training.data.dataset import Examples, PackedExamples
from tandem.training.data.packing import documents
from tandem.training.loop_config import LoopConfig
from tandem.training.loss import completion_loss


class TaskData(Protocol):
    """Examples of a task, as the workers map them from a file."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each example; as cheap to ask for as an attribute."""

    def __len__(self) -> int: ...

    def loss_weight(self, indices: Sequence[int]) -> float:
        """What the summed loss of these examples is divided by: loss-carrying tokens, or weights of rows."""

    def collate(self, indices: Sequence[int], pad_id: int) -> tuple[Any, ...]:
        """A micro-batch, padded or packed, as torch tensors; `Task.loss` takes them."""


class Task(Protocol):
    """What the loop asks of a task."""

    def load_model(self, path: str, **options: Any) -> Any:
        """The base model with the head that the task needs.

        Args:
            path: Folder of the base model.
            **options: For ``from_pretrained``: dtype, quantization, devices.
        """

    def lora_options(self) -> dict[str, Any]:
        """What PEFT's LoraConfig is told of the task, once the model is loaded."""

    def load_data(self, path: str) -> TaskData:
        """Examples from the file that `prepare` wrote."""

    def loss(self, engine: Any, head: Any, batch: Sequence[Any]) -> tuple[Any, Any]:
        """The summed loss of a micro-batch, and its logits per example where they are to be measured.

        Args:
            engine: DeepSpeed's.
            head: The model's output embeddings; None where it has none.
            batch: What `TaskData.collate` gave, on the engine's device.

        Returns:
            (float32 scalar, (batch, classes) logits or None).
        """

    def measure(self, logits: Any, data: Any) -> dict[str, float]:
        """Figures of an evaluation beside its loss, for the step's record.

        Args:
            logits: (examples, classes) float32, of all of them, on every worker; None if `loss` gives none.
            data: The examples.
        """


@dataclass(frozen=True)
class Generation:
    """A causal language model that learns what carries loss.

    Args:
        packing: Whether a micro-batch is one row of several documents; else its rows are padded.
    """

    packing: bool

    def load_model(self, path: str, **options: Any) -> Any:
        """See `Task`."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False, **options)

    def lora_options(self) -> dict[str, Any]:
        """See `Task`."""
        return {"task_type": "CAUSAL_LM"}

    def load_data(self, path: str) -> Examples | PackedExamples:
        """See `Task`."""
        examples = Examples.load(path)
        return PackedExamples(examples) if self.packing else examples

    def loss(self, engine: Any, head: Any, batch: Sequence[Any]) -> tuple[Any, None]:
        """See `Task`: cross-entropy of the tokens that carry loss."""
        if self.packing:
            input_ids, loss_mask, position_ids, bounds = batch
            return completion_loss(engine, head, input_ids, None, loss_mask, documents(position_ids, bounds)), None
        input_ids, attention_mask, loss_mask = batch
        return completion_loss(engine, head, input_ids, attention_mask, loss_mask), None

    def measure(self, logits: Any, data: TaskData) -> dict[str, float]:  # noqa: ARG002 - its loss says it all
        """See `Task`: nothing beside the loss."""
        return {}


def task_of(config: LoopConfig) -> Task:
    """The task of a run."""
    if config.spec.task == "classification":
        return Classification(config.labels, config.pad_id)
    return Generation(config.packing)
