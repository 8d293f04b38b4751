"""The plan of a fine-tuning job: how much memory, whether it fits, and what would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stand_ins.shell import Shell

from tandem.cli.memory import ladder, plan_memory
from tandem.orchestrator.ray_jobs import Machine, machine_of
from tandem.specs.finetune import FinetuneSpec
from tandem.training.methods.memory import Settings

GIB = 2**30
CPUS = Machine(cpus=4, gpus=0, memory=16 * GIB, gpu_memory=0)
GPUS = Machine(cpus=64, gpus=8, memory=1024 * GIB, gpu_memory=80 * GIB)


@pytest.fixture
def llama_path(tmp_path: Path) -> Path:
    """Llama of 8 billion parameters, as far as it is here: its config alone."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256,
    )  # fmt: skip
    config.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def spec(model: Path | str, **fields: Any) -> FinetuneSpec:
    schedule = {"batch_size": 32, "micro_batch_size": 4, "max_length": 2048}
    base = {"kind": "finetune", "name": "t", "model": str(model), "data": {"train": "t.jsonl"}, "schedule": schedule}
    return FinetuneSpec.model_validate(base | fields)


def test_a_job_that_fits_says_so(llama_path: Path, tmp_path: Path) -> None:
    facts = plan_memory(spec(llama_path, method="lora", workers=8, gradient_checkpointing=True), tmp_path, [GPUS])
    assert facts["parameters"].startswith("8,030,261,248; ")
    assert facts["fits"].startswith("yes: ")
    assert "80.0 GiB of the smallest GPU" in facts["fits"]
    assert "proposal" not in facts


def test_a_job_that_does_not_fit_is_told_what_would(llama_path: Path, tmp_path: Path) -> None:
    full = spec(llama_path, method="full", workers=8, deepspeed=2)
    facts = plan_memory(full, tmp_path, [GPUS])
    assert facts["fits"].startswith("no: ")
    overrides = dict(word.split("=") for word in facts["proposal"].partition(":")[0].split())
    assert overrides
    # The proposal, taken at its word, fits.
    schedule = full.schedule.model_dump() | {
        "micro_batch_size": int(overrides.get("schedule.micro_batch_size", full.schedule.micro_batch_size))
    }
    taken = spec(
        llama_path,
        method="full",
        workers=8,
        deepspeed=int(overrides.get("deepspeed", 2)),
        gradient_checkpointing=overrides.get("gradient_checkpointing") == "true",
        offload={key.partition(".")[2]: value for key, value in overrides.items() if key.startswith("offload.")},
        schedule=schedule,
    )
    assert plan_memory(taken, tmp_path, [GPUS])["fits"].startswith("yes: ")


def test_what_nothing_helps_is_told_so(llama_path: Path, tmp_path: Path) -> None:
    facts = plan_memory(spec(llama_path, method="full", workers=2), tmp_path, [CPUS])
    assert facts["fits"].startswith("no: ")
    assert "no ZeRO stage, checkpointing or offload is enough: method=lora" in facts["proposal"]


def test_without_a_cluster_the_estimate_stands_alone(llama_path: Path, tmp_path: Path) -> None:
    facts = plan_memory(spec(llama_path), tmp_path, None)
    assert "activations" in facts["memory per worker"]
    assert facts["fits"] == "unknown: no cluster answers"


def test_a_model_that_is_not_here_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    facts = plan_memory(spec(f"pypi:some-model==1.0/model.gguf#sha256={'0' * 64}"), tmp_path, [CPUS])
    assert list(facts) == ["memory per worker"]
    assert "config.json, which is here after the first job" in facts["memory per worker"]


def test_proposals_go_from_the_fastest_to_the_slowest_and_leave_out_what_is_refused() -> None:
    asked = Settings("qlora", 1, "bf16", workers=2, micro_batch_size=4, max_length=64)
    steps = list(ladder(asked, batch_size=16, cuda=True))
    assert {step.stage for step in steps} == {2}  # ZeRO 3 takes no quantized weights
    assert [step.micro_batch_size for step in steps[:3]] == [4, 2, 1]
    assert [step.offload_optimizer for step in steps] == sorted((s.offload_optimizer for s in steps), reverse=True)
    assert not list(ladder(asked, batch_size=16, cuda=False))


def test_a_node_is_read_as_the_dashboard_describes_it() -> None:
    node = {
        "raylet": {"state": "ALIVE", "resourcesTotal": {"CPU": 8.0, "GPU": 2.0}},
        "mem": [64 * GIB, 1, 2.0, 3],
        "gpus": [{"memoryTotal": 40960}, {"memoryTotal": 81920}],
    }
    resources = {"CPU": 8.0, "GPU": 2.0}
    assert machine_of(node) == Machine(cpus=8.0, gpus=2.0, memory=64 * GIB, gpu_memory=40 * GIB, resources=resources)
    assert machine_of({}) == Machine(cpus=0.0, gpus=0.0, memory=0, gpu_memory=0)


def test_rows_longer_than_the_model_reads_are_a_problem_of_the_plan(shell: Shell, tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_positions=256, n_embd=64, n_layer=2, n_head=2).save_pretrained(tmp_path / "gpt2")
    path = tmp_path / "job.yaml"
    path.write_text(f"kind: finetune\nname: t\nmodel: {tmp_path / 'gpt2'}\ndata: {{train: t.jsonl}}\n")
    said = "schedule.max_length is 1024, and the model reads at most 256 tokens (set schedule.max_length=256 or less)"
    assert said in shell("plan", str(path)).stdout
    assert said not in shell("plan", str(path), "schedule.max_length=256").stdout


def test_the_command_shows_it(shell: Shell, llama_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"kind: finetune\nname: t\nmodel: {llama_path}\ndata: {{train: t.jsonl}}\n")
    shown = shell("plan", str(path)).stdout
    assert "memory per worker\t" in shown
    assert "fits\tunknown: no cluster answers" in shown
