from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import SpecError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.methods.deepspeed import Hardware, build_config, conflicts, read_plain

CPU = Hardware(cuda=False, bf16=False)
CPU_BF16 = Hardware(cuda=False, bf16=True)
GPU = Hardware(cuda=True, bf16=True)
WARMUP = {"type": "WarmupLR", "params": {"warmup_num_steps": 5}}
REPOSITORY = Path(__file__).parents[4]


def spec(**fields: Any) -> FinetuneSpec:
    return FinetuneSpec.model_validate(
        {"kind": "finetune", "name": "t", "model": "m", "data": {"train": "t.jsonl"}, "workers": 2, **fields}
    )


def test_a_stage_becomes_a_whole_configuration() -> None:
    config = build_config(spec(deepspeed=3, schedule={"batch_size": 16, "learning_rate": 0.01}), None, CPU)
    assert config["zero_optimization"]["stage"] == 3
    assert config["train_batch_size"] == 16
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 2 == 16
    assert config["optimizer"]["params"]["lr"] == 0.01


def test_the_optimizer_follows_what_the_workers_are() -> None:
    assert adam(spec(), CPU) == {"torch_adam": True}
    assert adam(spec(), GPU) == {"torch_adam": True, "fused": True}
    # Left to DeepSpeed, which then takes its own for processors: ZeRO-Offload steps there.
    assert adam(spec(offload={"optimizer": "cpu"}), GPU) == {}


def adam(job: FinetuneSpec, hardware: Hardware) -> dict[str, Any]:
    params = build_config(job, None, hardware)["optimizer"]["params"]
    return {key: value for key, value in params.items() if key not in ("lr", "weight_decay")}


def test_communication_overlaps_on_gpus_alone() -> None:
    assert build_config(spec(), None, GPU)["zero_optimization"]["overlap_comm"] is True
    assert build_config(spec(), None, CPU)["zero_optimization"]["overlap_comm"] is False


def test_offload_is_pinned_and_knows_its_disk() -> None:
    offload = {"optimizer": "nvme", "param": "cpu", "nvme_path": "/scratch"}
    zero = build_config(spec(deepspeed=3, offload=offload), None, GPU)["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "nvme", "pin_memory": True, "nvme_path": "/scratch"}
    assert zero["offload_param"] == {"device": "cpu", "pin_memory": True}


def test_fp16_and_bf16_are_never_on_together() -> None:
    config = build_config(spec(precision="fp16"), None, GPU)
    assert (config["fp16"], config["bf16"]) == ({"enabled": True}, {"enabled": False})
    # A plain JSON that asks for fp16 decides what the spec leaves open.
    config = build_config(spec(), {"fp16": {"enabled": True}, "bf16": {"enabled": "auto"}}, GPU)
    assert (config["fp16"], config["bf16"]) == ({"enabled": True}, {"enabled": False})


@pytest.mark.parametrize(
    ("precision", "hardware", "bf16"),
    [
        ("auto", CPU, False),
        ("auto", CPU_BF16, True),
        ("auto", GPU, True),
        ("bf16", CPU, True),
        ("fp32", GPU, False),
    ],
)
def test_precision_follows_the_spec_then_the_hardware(precision: str, hardware: Hardware, bf16: bool) -> None:
    assert build_config(spec(precision=precision), None, hardware)["bf16"] == {"enabled": bf16}


def test_a_plain_json_is_taken_as_it_is() -> None:
    plain = {
        "zero_optimization": {"stage": 1, "reduce_bucket_size": 5},
        "prescale_gradients": True,
        "gradient_clipping": 1.0,
    }
    config = build_config(spec(), plain, GPU)
    assert config["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 5}
    assert config["prescale_gradients"] is True
    assert config["train_batch_size"] == 8  # what it leaves out comes from the spec
    assert plain["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 5}


def test_auto_is_filled_from_the_spec_or_left_to_deepspeed() -> None:
    plain = {
        "train_batch_size": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": "auto"},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": 1e-7}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
    }
    config = build_config(spec(), plain, CPU_BF16)
    assert config["train_batch_size"] == 8
    assert config["bf16"] == {"enabled": True}
    assert config["zero_optimization"] == {"stage": 3}
    assert config["optimizer"]["params"] == {
        "lr": 2e-4, "weight_decay": 0.0, "eps": 1e-7, "torch_adam": True,
    }  # fmt: skip
    assert "scheduler" not in config  # the spec's schedule then
    assert "auto" not in json.dumps(config)


@pytest.mark.parametrize("optimizer", [{"type": "AdamW"}, {"type": "Lion", "params": {"betas": [0.9, 0.99]}}])
@pytest.mark.parametrize("hardware", [CPU, GPU])
def test_an_optimizer_that_does_not_say_its_rate_or_decay_has_the_specs(
    optimizer: dict[str, Any], hardware: Hardware
) -> None:
    job = spec(schedule={"learning_rate": 0.01, "weight_decay": 0.1})
    config = build_config(job, {"optimizer": optimizer}, hardware)["optimizer"]
    assert config["type"] == optimizer["type"]
    wanted = {"lr": 0.01, "weight_decay": 0.1, **optimizer.get("params", {})}
    assert {key: value for key, value in config["params"].items() if key != "torch_adam"} == wanted
    assert config["params"].get("torch_adam", False) == (hardware == CPU and optimizer["type"] == "AdamW")


def test_a_scheduler_written_out_is_deepspeeds() -> None:
    assert build_config(spec(), {"scheduler": WARMUP}, CPU)["scheduler"] == WARMUP


@pytest.mark.parametrize(
    ("plain", "fields", "message"),
    [
        ({"train_batch_size": 16}, {}, "train_batch_size is 16"),
        ({"train_micro_batch_size_per_gpu": 1}, {}, "schedule.micro_batch_size says 4"),
        ({"gradient_accumulation_steps": 4}, {}, "gradient_accumulation_steps is 4"),
        ({"gradient_clipping": 0.5}, {}, "gradient_clipping is 0.5"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1}}}, {}, "schedule.learning_rate says 0.0002"),
        ({"scheduler": WARMUP}, {"schedule": {"scheduler": "linear"}}, "the spec says schedule.scheduler"),
        ({"scheduler": WARMUP}, {"schedule": {"warmup": 0.1}}, "the spec says schedule.warmup"),
        ({"bf16": {"enabled": True}}, {"precision": "fp32"}, r"precision \(fp32\)"),
        ({"fp16": {"enabled": True}}, {}, "fp16 needs a GPU"),
        ({"fp16": {"enabled": True}}, {"precision": "bf16"}, r"enabled is True in the DeepSpeed JSON, and precision"),
        ({"zero_optimization": {"stage": 3}}, {"method": "qlora"}, "zero.Init takes no quantized weights"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, {}, "under ZeRO 3 alone"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, {}, "nothing to offload from"),
    ],
)
def test_contradictions_are_refused(plain: dict[str, Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_config(spec(deepspeed="plain.json", **fields), plain, CPU)


def test_every_contradiction_is_found() -> None:
    plain = {"train_batch_size": 16, "gradient_clipping": 0.5, "fp16": {"enabled": True}}
    assert len(conflicts(spec(), plain, CPU)) == 3
    assert len(conflicts(spec(), plain, GPU)) == 2


def test_what_agrees_is_no_contradiction() -> None:
    plain = {"train_batch_size": 8, "gradient_clipping": 1, "bf16": {"enabled": True}}
    assert conflicts(spec(), plain, CPU) == []
    assert build_config(spec(), plain, CPU)["bf16"] == {"enabled": True}  # asked for, emulated or not


def test_a_file_that_is_missing_or_no_json_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no file"):
        read_plain(spec(deepspeed=str(tmp_path / "none.json")))
    bad = tmp_path / "bad.json"
    bad.write_text('{\n "a": }')
    with pytest.raises(SpecError, match="not JSON") as error:
        read_plain(spec(deepspeed=str(bad)))
    assert error.value.where == f"{bad}:2"
    bad.write_text("[]")
    with pytest.raises(SpecError, match="not a JSON object"):
        read_plain(spec(deepspeed=str(bad)))


@pytest.mark.parametrize(("name", "stage"), [("zero2.json", 2), ("zero3.json", 3)])
@pytest.mark.parametrize("hardware", [CPU, GPU])
def test_the_repositorys_files_fit_any_spec(name: str, stage: int, hardware: Hardware) -> None:
    job = spec(deepspeed=str(REPOSITORY / "jobs/deepspeed" / name), schedule={"batch_size": 32, "weight_decay": 0.1})
    config = build_config(job, read_plain(job), hardware)
    assert config["zero_optimization"]["stage"] == stage
    assert config["optimizer"]["params"]["weight_decay"] == 0.1
    assert '"auto"' not in json.dumps(config)
