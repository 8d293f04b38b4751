"""The finetune job on a GPU: what is chosen there, that it learns, what remains of it, and that it resumes."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from stand_ins.gpu_jobs import LEARNING, LONG, MEASURED, STEPS, Jobs

from tandem.cli.memory import plan_memory
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.specs.finetune import FinetuneSpec
from tandem.training import metrics
from tandem.training.data.dataset import Examples
from tandem.training.data.packing import VARLEN
from tandem.training.loss import completion_loss

GIB = 2**30
PRECISIONS = {"full-fp16": "fp16", "full-fp32": "fp32"}
OPTIMIZERS = {name: "DeepSpeedCPUAdam" for name in LEARNING if "offload" in name}
# Relative, of the loss on the held-out rows: what is loaded computes in the same type with other kernels.
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 3e-2}


def held_out_loss(model: Any, folder: Path) -> float:
    import torch

    examples = Examples.load(folder / "eval-examples")
    everything = range(len(examples))
    with torch.no_grad():
        batch = [tensor.cuda() for tensor in examples.collate(everything, pad_id=0)]
        total = completion_loss(model.eval(), model.get_output_embeddings(), *batch)
    return float(total) / examples.loss_weight(everything)


def load(name: str, spec: dict[str, Any], artifact: str | None, precision: str) -> Any:
    """As a reader of the model card would: the base alone where there is no artifact."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": 0}}
    if spec["method"] == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    whole = artifact is not None and spec["method"] == "full"
    model = AutoModelForCausalLM.from_pretrained(artifact if whole else spec["model"], **options)
    return model if whole or artifact is None else PeftModel.from_pretrained(model, artifact)


@pytest.mark.parametrize("name", LEARNING)
def test_it_learns_and_what_remains_computes_what_the_engine_computed(jobs: Jobs, name: str) -> None:
    result = jobs[name].result()
    losses = jobs[name].losses()
    spec = jobs[name].spec()
    precision = PRECISIONS.get(name, "bf16")
    assert len(losses) == STEPS
    assert sum(losses[-3:]) / 3 < losses[0] - 1
    base = held_out_loss(load(name, spec, None, precision), jobs[name].folder)
    after = held_out_loss(load(name, spec, result["artifact"], precision), jobs[name].folder)
    assert after < base - 1
    assert after == pytest.approx(result["eval_loss"], rel=TOLERANCE[precision])


@pytest.mark.parametrize("name", LEARNING)
def test_what_is_chosen_on_a_gpu(jobs: Jobs, name: str) -> None:
    start = jobs[name].start()
    assert start["device"] == "cuda:0"
    assert start["backend"] == "nccl"
    assert start["precision"] == PRECISIONS.get(name, "bf16")
    assert start["optimizer"] == OPTIMIZERS.get(name, "AdamW, fused")
    assert start["attention"] == ("sdpa" if name in ("full-fp32", "full-padded") else VARLEN)


def test_a_base_in_four_bits_has_as_many_parameters(jobs: Jobs) -> None:
    qlora, lora = jobs["qlora-zero2"].start(), jobs["lora-zero2"].start()
    assert qlora["parameters"] == lora["parameters"]
    assert qlora["trainable_parameters"] == lora["trainable_parameters"]


def test_an_interrupted_run_has_the_curve_of_an_undisturbed_one(jobs: Jobs) -> None:
    result, whole = jobs["interrupted"].result(), jobs["undisturbed"].result()
    (resumed_at,) = result["resumed_at"]
    assert 0 < resumed_at < LONG
    ours, theirs = jobs["interrupted"].losses(), jobs["undisturbed"].losses()
    print(f"resumed at {resumed_at}; largest difference {max(abs(a - b) for a, b in zip(ours, theirs, strict=True))}")
    # Not bit for bit: some of CUDA's kernels add up in an order of their own.
    assert ours == pytest.approx(theirs, abs=0.05)
    assert result["eval_loss"] == pytest.approx(whole["eval_loss"], abs=0.05)


def test_memory_that_ran_out_is_named(jobs: Jobs) -> None:
    error = jobs["too-large"].error()
    assert error["type"] == "OutOfMemoryError"
    assert re.search(r"worker 0 ran out of GPU memory \([\d.]+ of [\d.]+ GiB at its peak\)", error["what"])
    assert "schedule.micro_batch_size" in error["remedy"]


def test_a_job_that_names_the_gpus_type_has_one_to_itself(jobs: Jobs) -> None:
    assert jobs["whole-gpu"].start()["device"] == "cuda:0"


def test_a_deepspeed_json_trains_with_deepspeeds_own_adam(jobs: Jobs) -> None:
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if shutil.which("nvcc") is None or re.search(r"\d[a-z]", archs):
        pytest.skip(f"DeepSpeed 0.19 can't compile its AdamW: no nvcc, or it can't read TORCH_CUDA_ARCH_LIST={archs}")
    start = jobs["deepspeed-json"].start()
    assert (start["optimizer"], start["zero_stage"]) == ("FusedAdam", 2)


def test_a_classifier_learns(jobs: Jobs) -> None:
    assert jobs["classes"].result()["accuracy"] > 0.9


@pytest.mark.parametrize("name", MEASURED)
def test_the_plan_foretells_the_memory(jobs: Jobs, name: str) -> None:
    """What tensors take at the peak; CUDA's own context and its libraries aren't counted by either."""
    jobs[name].result()
    spec = FinetuneSpec.model_validate(jobs[name].spec())
    measured = max(record["memory_bytes"][0] for record in metrics.steps(jobs[name].records())) / GIB
    said = plan_memory(spec, jobs.cluster.storage, None)["memory per worker"]
    total, process = re.match(r"([\d.]+) GiB estimated: process ([\d.]+) GiB", said).groups()  # type: ignore[union-attr]
    estimated = float(total) - float(process)
    print(f"{name}: measured {measured:.2f} GiB, estimated {estimated:.2f}, {estimated / measured:.2f}; {said}")
    assert 0.8 < estimated / measured < 1.5


def test_the_share_of_the_gpus_peak_is_told(jobs: Jobs, gpu: str) -> None:
    jobs["memory-full-zero2"].result()
    if not re.search(r"\b(B200|H200|H100|A100|A40|A10|A10G|L4|L40S|V100|T4)\b", gpu):
        pytest.skip(f"the peak of {gpu} isn't known")
    records = metrics.steps(jobs["memory-full-zero2"].records())
    print([round(record["mfu"], 3) for record in records])
    assert all(0 < record["mfu"] < 1 for record in records)


def test_the_cluster_says_what_memory_its_gpus_have(jobs: Jobs) -> None:
    import torch

    machines = HttpRayJobs(jobs.cluster).machines()
    assert machines
    assert machines[0].gpus == torch.cuda.device_count()
    assert machines[0].gpu_memory == pytest.approx(torch.cuda.get_device_properties(0).total_memory, rel=0.05)
