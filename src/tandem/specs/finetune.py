"""`kind: finetune`: rows in, an adapter or weights out."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from tandem.specs.base import Fraction, Name, PromptSpec, Spec, Uri
from tandem.specs.combinations import refusals
from tandem.specs.queue import QueueSpec
from tandem.specs.runtime import RuntimeSpec


class TrainingDataSpec(Spec):
    """The rows to learn from."""

    train: str = Field(
        description="JSONL, CSV or Parquet: messages, prompt/completion, question/answers or text; a file or glob "
        "on any filesystem that pyarrow knows; for classification text/label, or a folder with one folder of .txt "
        "files per label, also by a URI as for `model`"
    )
    eval: str | None = Field(
        None,
        description="the same; without it, `eval_fraction` of `train`, by hash of the row; labels are stratified",
    )
    eval_fraction: Fraction = 0.1
    max_quarantined: Fraction = Field(0.01, description="fail when more than this share of the rows is unusable")

    @model_validator(mode="after")
    def _held_out_rows_are_said_once(self) -> TrainingDataSpec:
        if self.eval is not None and self.eval_fraction != type(self).model_fields["eval_fraction"].default:
            raise ValueError("eval_fraction: eval says what is held out (so: leave one of them out)")
        return self


class LoraSpec(Spec):
    """LoRA (Hu et al., arXiv 2106.09685)."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class RetrievalAugmentedSpec(Spec):
    """Training with retrieved context (RAFT: Zhang et al., arXiv 2403.10131)."""

    collection: Name = Field(description="the collection that will serve: distractors come from it")
    tenant: str | None = Field(
        None,
        min_length=1,
        description="whose passages: this tenant's and nobody's; '*': all. Needed where the collection has tenants",
    )
    passages: int = Field(3, ge=1, description="passages in a prompt, the gold one among them")
    without_gold: Fraction = Field(0.2, description="share of samples whose context lacks the gold passage")


class ScheduleSpec(Spec):
    """How long, how fast, and in what portions."""

    epochs: float = Field(3.0, gt=0)
    max_steps: int | None = Field(
        None, ge=1, description="optimizer steps; stops there if it comes before the epochs' end"
    )
    learning_rate: float = Field(2e-4, gt=0)
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction = Field(0.05, description="share of the steps over which the learning rate rises")
    batch_size: int = Field(8, ge=1, description="rows per optimizer step, over all workers")
    micro_batch_size: int = Field(4, ge=1, description="rows per worker and forward pass; where packed, on average")
    packing: bool = Field(
        True,
        description="rows of a pass one after another without padding, none attending to another; "
        "false, a model for which that isn't proven, or a classifier: padded",
    )
    max_length: int = Field(1024, ge=16, description="tokens; a row whose answer would be cut is quarantined")
    weight_decay: float = Field(0.0, ge=0)
    gradient_clipping: float = Field(1.0, gt=0)
    max_loss_growth: float | None = Field(
        3.0,
        gt=1,
        description="the run stops when the mean loss of 10 steps is more than this many times that of the first 10, "
        "and a nat more; null: only when it isn't a number",
    )
    seed: int = 0

    @model_validator(mode="after")
    def _batch_divides(self) -> ScheduleSpec:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} isn't a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class OffloadSpec(Spec):
    """What leaves the GPU's memory (ZeRO-Offload: arXiv 2101.06840, ZeRO-Infinity: arXiv 2104.07857)."""

    optimizer: Literal["none", "cpu", "nvme"] = Field(
        "none", description="DeepSpeed's offload_optimizer: optimizer states and the step"
    )
    param: Literal["none", "cpu", "nvme"] = Field("none", description="DeepSpeed's offload_param; ZeRO 3 alone")
    nvme_path: str | None = Field(None, description="a folder on a local NVMe disk of every worker's machine")

    @model_validator(mode="after")
    def _path_belongs_to_nvme(self) -> OffloadSpec:
        if ("nvme" in (self.optimizer, self.param)) != (self.nvme_path is not None):
            raise ValueError("nvme_path is needed with nvme, and with nothing else")
        return self


class CheckpointSpec(Spec):
    """How often, and how many are kept: the last ones, and the one with the lowest evaluation loss."""

    every_steps: int = Field(25, ge=1, description="optimizer steps between checkpoints, and between evaluations")
    keep: int = Field(2, ge=1, description="of the last ones; the best is kept besides")
    upload: Literal["async", "sync"] = Field("async", description="sync: training waits until a checkpoint is stored")


class EarlyStoppingSpec(Spec):
    """Where there are held-out rows: stop when their loss no longer falls, and keep the best checkpoint's weights."""

    enabled: bool = Field(True, description="false: train to the last step, and keep the last weights")
    patience: int = Field(3, ge=1, description="evaluations in a row without a better loss before training stops")
    min_delta: float = Field(0.0, ge=0, description="nats per answer token by which a loss must fall to be better")


class OutputSpec(Spec):
    """What is left beside the trained weights."""

    merge: bool = Field(
        False, description="also write the base model with the adapter in it, under `merged`; needs its memory in fp32"
    )


class FinetuneSpec(Spec):
    """Ray Train runs DeepSpeed on `workers` workers; a checkpoint is there to resume from."""

    kind: Literal["finetune"]
    name: Name
    model: Uri
    task: Literal["generation", "classification"] = "generation"
    data: TrainingDataSpec
    method: Literal["full", "lora", "qlora"] = Field(
        "lora", description="qlora: LoRA over a base in 4 bits (NF4: arXiv 2305.14314), on GPUs"
    )
    lora: LoraSpec = LoraSpec()
    retrieval: RetrievalAugmentedSpec | None = None
    prompt: PromptSpec = PromptSpec()
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="classification: balanced lets every class count the same in the loss, however rare it is"
    )
    schedule: ScheduleSpec = ScheduleSpec()
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="auto: bf16 where the device computes in it, else fp32; fp16: with loss scaling, on GPUs"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, about a third more arithmetic"
    )
    deepspeed: int | str = Field(2, description="a ZeRO stage (0-3), or the path of a DeepSpeed JSON, taken as it is")
    offload: OffloadSpec = OffloadSpec()
    workers: int | tuple[int, int] = Field(
        1, description="how many; or [min, max]: as many as the cluster has room for, resized when nodes come and go"
    )
    cpus_per_worker: float = Field(1, gt=0, description="reserved for each, which computes in as many threads")
    gpus_per_worker: float | None = Field(None, ge=0, description="default: 1 where the cluster has GPUs, else 0")
    accelerator_type: str | None = Field(
        None,
        min_length=1,
        description="which GPUs, by Ray's names for them (A100, H100, L4, …): workers run on machines that have them",
    )
    checkpoint: CheckpointSpec = CheckpointSpec()
    early_stopping: EarlyStoppingSpec = EarlyStoppingSpec()
    output: OutputSpec = OutputSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    queue: QueueSpec = QueueSpec()

    @property
    def min_workers(self) -> int:
        """The fewest workers that it runs on."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """The most workers that it runs on."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    def with_workers(self, workers: int) -> FinetuneSpec:
        """The same job on this many workers: the same rows per step, in the same micro-batches for any number of them.

        They are the largest, up to the spec's size, that every number of workers shares out evenly: what dropout draws
        depends on the micro-batch, and a curve must not change when workers come or go.

        Args:
            workers: Between `min_workers` and `max_workers`.
        """
        if isinstance(self.workers, int):
            return self
        rows = self.schedule.batch_size // math.lcm(*range(self.min_workers, self.max_workers + 1))
        largest = max(size for size in range(1, self.schedule.micro_batch_size + 1) if rows % size == 0)
        schedule = self.schedule.model_copy(update={"micro_batch_size": largest})
        return self.model_copy(update={"workers": workers, "schedule": schedule})

    @model_validator(mode="after")
    def _possible(self) -> FinetuneSpec:
        if isinstance(self.deepspeed, int) and not 0 <= self.deepspeed <= 3:
            raise ValueError(f"deepspeed: ZeRO has stages 0 to 3, not {self.deepspeed}")
        if self.task == "classification" and self.retrieval is not None:
            raise ValueError("retrieval: a classifier has no prompt to put passages into")
        if self.task == "classification" and self.prompt != PromptSpec():
            raise ValueError("prompt: a classifier reads the text alone")
        if self.task != "classification" and self.class_weights != "none":
            raise ValueError("class_weights: only task: classification has classes")
        if isinstance(self.deepspeed, str) and self.offload != OffloadSpec():
            raise ValueError("offload: deepspeed names a JSON, which says itself what it offloads")
        if self.output.merge and not self.trains_adapter:
            raise ValueError("output.merge: method: full leaves whole weights, there is no adapter to merge")
        if self.output.merge and self.task != "generation":
            raise ValueError("output.merge: only for task: generation")
        if self.accelerator_type is not None and self.gpus_per_worker == 0:
            raise ValueError("accelerator_type: names GPUs, and gpus_per_worker is 0 (so: leave one of them out)")
        if found := refusals(self.combination()):
            raise ValueError("; ".join(f"{refusal.reason} (so: {refusal.remedy})" for refusal in found))
        if not 1 <= self.min_workers <= self.max_workers:
            raise ValueError(f"workers: [min, max] with 1 ≤ min ≤ max, not [{self.min_workers}, {self.max_workers}]")
        if not isinstance(self.workers, int):
            self._can_be_resized()
            return self
        per_step = self.schedule.micro_batch_size * self.workers
        if self.schedule.batch_size % per_step:
            raise ValueError(
                f"schedule.batch_size {self.schedule.batch_size} must be a multiple of "
                f"micro_batch_size × workers = {per_step}"
            )
        return self

    def _can_be_resized(self) -> None:
        counts = range(self.min_workers, self.max_workers + 1)
        uneven = [count for count in counts if self.schedule.batch_size % count]
        if uneven:
            raise ValueError(
                f"schedule.batch_size {self.schedule.batch_size} can't be shared out evenly over {uneven[0]} "
                f"workers, and workers may be any number from {self.min_workers} to {self.max_workers}"
            )
        if self.offload.optimizer == "nvme":
            raise ValueError(
                "offload.optimizer: nvme: DeepSpeed saves it for one number of workers (so: give workers as one number)"
            )

    @property
    def trains_adapter(self) -> bool:
        """Whether an adapter is trained over frozen base weights."""
        return self.method != "full"

    def combination(self) -> dict[str, str | int | None]:
        """The spec in the dimensions of `tandem.specs.combinations`; None for what it doesn't decide."""
        device = None if self.gpus_per_worker is None else "gpu" if self.gpus_per_worker > 0 else "cpu"
        if self.accelerator_type is not None:
            device = "gpu"
        return {
            "method": self.method,
            "stage": self.deepspeed if isinstance(self.deepspeed, int) else None,
            "offload_optimizer": self.offload.optimizer,
            "offload_param": self.offload.param,
            "precision": None if self.precision == "auto" else self.precision,
            "device": device,
            "task": self.task,
        }
