"""One side of the training benchmark, in a process of its own: `python -m benchmarks.training_sides SIDE FOLDER`.

All sides train the same adapter on the same rows with the same learning rate, in the same order where the side doesn't
pack them itself, and write ``SIDE.json`` into the folder: each optimizer step's useful tokens (no padding) and seconds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

STARTED = time.time()
ROWS_IN_FLIGHT = 4  # on the whole machine: the same memory for everybody
PACKED_LENGTH = 1024  # of TRL's rows: 2.2 of ours


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all sides have in common; ``setting.json`` in the folder.

    Attributes:
        model: Folder of the base model.
        train: Rows of messages.
        eval: The held-out ones, or None.
        steps: Optimizer steps.
        batch_size: Rows per step.
        learning_rate: Of every step.
        rank: Of the adapter, on all linear layers.
        workers: Of our sides, one core each; the others take all cores in one process.
        gpus: Of each worker of ours; with none it computes on a processor, whatever the machine has.
        micro_batch_size: Rows in a forward pass; None for what may be in flight on a processor.
    """

    model: str
    train: str
    eval: str | None
    steps: int
    batch_size: int
    learning_rate: float
    rank: int
    workers: int
    gpus: int = 0
    micro_batch_size: int | None = None

    def spec(self) -> Any:
        """The job that says the same."""
        from tandem.specs import FinetuneSpec

        in_flight = min(ROWS_IN_FLIGHT, self.batch_size) // self.workers
        return FinetuneSpec.model_validate(
            {
                "kind": "finetune",
                "name": "benchmark",
                "model": self.model,
                "data": {"train": self.train, **({"eval": self.eval} if self.eval else {"eval_fraction": 0.0})},
                "lora": {"r": self.rank, "alpha": 2 * self.rank},
                "workers": self.workers,
                "gpus_per_worker": self.gpus,
                "schedule": {
                    "max_steps": self.steps,
                    "epochs": 1000,
                    "batch_size": self.batch_size,
                    "micro_batch_size": self.micro_batch_size or in_flight,
                    "learning_rate": self.learning_rate,
                    "scheduler": "constant",
                    "warmup": 0,
                },
                "checkpoint": {"every_steps": self.steps},
            }
        )


def job(setting: Setting, folder: Path) -> dict[str, Any]:
    """The finetune job, under Ray Train, from this process's start on."""
    import ray

    from tandem.artifacts.job import JobContext
    from tandem.config.cluster import Cluster
    from tandem.training import job as finetune
    from tandem.training import metrics

    phases: dict[str, float] = {}

    class Timed(JobContext):
        def progress(self, phase: str, done: int, total: int | None = None, **figures: float | str) -> None:
            phases.setdefault(phase, time.time())
            super().progress(phase, done, total, **figures)

    storage = folder / "storage"
    (storage / "job").mkdir(parents=True, exist_ok=True)
    address = os.environ["RAY_ADDRESS"]
    nowhere = "http://127.0.0.1:1"
    cluster = Cluster(
        storage=storage,
        ray_address=address,
        dashboard_url=nowhere,
        server_url=nowhere,
        endpoint_url=nowhere,
        database_url="",
        mlflow_uri=f"sqlite:///{storage / 'mlflow.db'}",
        api_key_file=storage / "api-key",
    )
    context = Timed("job", "benchmark", storage / "job", storage, cluster)
    result = finetune.run(setting.spec(), context)
    ray.shutdown()
    records = metrics.read(context.dir / finetune.METRICS)
    start = metrics.starts(records)[0]
    first_step = metrics.steps(records)[0]
    began = first_step["time_ms"] / 1000 - first_step["step_s"]
    setup = start["set_up_s"]
    return {
        **_steps(records),
        "adapter": result["artifact"],
        "examples": str(context.dir),
        "precision": start["precision"],
        "startup": {
            "imports of the job, connect to Ray": phases["prepare"] - STARTED,
            "read, tokenize, check": phases["workers"] - phases["prepare"],
            "Ray Train starts its workers": began - phases["workers"] - sum(setup.values()),
            **{f"worker: {name}": seconds for name, seconds in setup.items()},
            "first step": first_step["step_s"],
        },
    }


def torchrun(setting: Setting, folder: Path) -> dict[str, Any]:
    """The same loop on the same examples, without Ray: torchrun starts the workers."""
    from tandem.training import metrics
    from tandem.training.group import TorchrunGroup
    from tandem.training.loop_config import LoopConfig
    from tandem.training.worker import train

    for name in ("checkpoints", "output"):
        (folder / "torchrun" / name).mkdir(parents=True, exist_ok=True)
    config = LoopConfig(
        spec=setting.spec(),
        model=setting.model,
        train=str(folder / "prepared" / "train-examples"),
        steps=setting.steps,
        pad_id=0,
        packing=True,
        cuda=setting.gpus > 0,
        metrics=str(folder / "torchrun" / "metrics.jsonl"),
        checkpoints=str(folder / "torchrun" / "checkpoints"),
        output=str(folder / "torchrun" / "output"),
        started_at=time.time(),
    )
    train(config, TorchrunGroup(cuda=config.cuda))
    return _steps(metrics.read(Path(config.metrics)))


def _steps(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Tokens and seconds of each step, with all that the loop does between two of them."""
    from tandem.training import metrics

    done = metrics.steps(records)
    seconds = _differences([record["time_ms"] / 1000 for record in done])
    return {"tokens": [record["tokens"] for record in done], "seconds": [done[0]["step_s"], *seconds]}


def trainer(setting: Setting, folder: Path) -> dict[str, Any]:
    """Hugging Face's Trainer: rows padded to the longest of four, two of these to a step."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    rows = _rows(setting, folder)
    callback, ended = _clock()
    loop = Trainer(
        model=_adapted(setting),
        args=TrainingArguments(**_arguments(setting, folder), gradient_accumulation_steps=_accumulation(setting)),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(setting.model), padding=True),
        callbacks=[callback],
    )
    loop.train()
    loop.model.save_pretrained(folder / "trainer")
    lengths = [len(row["input_ids"]) for row in rows]
    return {
        "tokens": _sums(lengths, setting.batch_size),
        "seconds": _differences(ended),
        "adapter": f"{folder}/trainer",
    }


def trl(setting: Setting, folder: Path) -> dict[str, Any]:
    """TRL's SFTTrainer with packing: rows of `PACKED_LENGTH` tokens, about as many tokens to a step as ours.

    One row to a pass: two stand one after the other and would make the attention mask four times as large.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = _rows(setting, folder)
    callback, ended = _clock()
    arguments = _arguments(setting, folder) | {"per_device_train_batch_size": 1}
    per_step = setting.batch_size // 2
    loop = SFTTrainer(
        model=_adapted(setting),
        args=SFTConfig(
            **arguments,
            gradient_accumulation_steps=per_step,
            packing=True,
            max_length=PACKED_LENGTH,
            shuffle_dataset=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(setting.model),
        callbacks=[callback],
    )
    lengths = [len(ids) for ids in loop.train_dataset["input_ids"]]
    loop.train()
    loop.model.save_pretrained(folder / "trl")
    return {"tokens": _sums(lengths, per_step), "seconds": _differences(ended), "adapter": f"{folder}/trl"}


def evaluate(setting: Setting, folder: Path) -> dict[str, Any]:
    """The held-out loss of each side's adapter, and of none, all by one piece of code in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tandem.training.data.dataset import Examples
    from tandem.training.loss import completion_loss

    examples = Examples.load(folder / "prepared" / "eval-examples")
    order = sorted(range(len(examples)), key=lambda index: examples.lengths[index])

    def loss(model: Any) -> float:
        model.eval()
        with torch.no_grad():
            batches = [examples.collate(order[at : at + 4], 0) for at in range(0, len(order), 4)]
            parts = [completion_loss(model, model.get_output_embeddings(), *batch) for batch in batches]
        return float(sum(parts)) / examples.loss_tokens(order)

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32)

    adapters = {}
    for side in ("job", "trainer", "trl"):
        path = folder / f"{side}.json"
        if path.is_file():
            adapters[side] = json.loads(path.read_text())["adapter"]
    losses = {side: loss(PeftModel.from_pretrained(base(), adapter)) for side, adapter in adapters.items()}
    return {"base": loss(base()), **losses}


def _rows(setting: Setting, folder: Path) -> list[dict[str, list[int]]]:
    """The job's own examples in the order in which it took them, `steps` times `batch_size`."""
    from tandem.training.data.dataset import Examples
    from tandem.training.schedule import plan_batches

    examples = Examples.load(folder / "prepared" / "train-examples")
    batches = plan_batches(examples.lengths, steps=setting.steps, batch_size=setting.batch_size, seed=0)
    rows = []
    # Within a batch the order changes nothing but the padding, and chance decides it, as a shuffled data set does.
    for index in [index for batch in batches for index in sorted(batch, key=lambda index: index * 7919 % 10_007)]:
        part = slice(int(examples.offsets[index]), int(examples.offsets[index + 1]))
        ids, learnt = examples.input_ids[part].tolist(), examples.loss_mask[part].tolist()
        labels = [token if carries else -100 for token, carries in zip(ids, learnt, strict=True)]
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def _adapted(setting: Setting) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)  # as the job does: the adapters begin alike
    # Weights in bf16, as DeepSpeed holds them, were a seventh faster for these sides than float32 under autocast.
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.bfloat16)
    lora = LoraConfig(r=setting.rank, lora_alpha=2 * setting.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def _arguments(setting: Setting, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "checkpoints"),
        "max_steps": setting.steps,
        "per_device_train_batch_size": ROWS_IN_FLIGHT,
        "learning_rate": setting.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "bf16": True,
        "use_cpu": True,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }


def _accumulation(setting: Setting) -> int:
    return setting.batch_size // ROWS_IN_FLIGHT


def _clock() -> tuple[Any, list[float]]:
    from transformers import TrainerCallback

    ended: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ended.append(time.time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.time())

    return Clock(), ended


def _differences(ended: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(ended)]


def _sums(lengths: list[int], rows: int) -> list[int]:
    return [sum(lengths[at : at + rows]) for at in range(0, len(lengths), rows)]


SIDES: dict[str, Callable[[Setting, Path], dict[str, Any]]] = {
    "job": job,
    "torchrun": torchrun,
    "trainer": trainer,
    "trl": trl,
    "evaluate": evaluate,
}


def main() -> None:
    side, folder = sys.argv[1], Path(sys.argv[2])
    setting = Setting(**json.loads((folder / "setting.json").read_text()))
    measured = SIDES[side](setting, folder)
    if os.environ.get("RANK", "0") == "0":
        (folder / f"{side}.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
