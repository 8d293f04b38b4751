"""What a few gloo processes find when they load, train and save a model through DeepSpeed, without Ray."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from tandem.specs.finetune import FinetuneSpec

WORKERS = 2


def finetune_spec(model: Path, **fields: Any) -> FinetuneSpec:
    schedule = {"batch_size": 4, "micro_batch_size": 2, "max_length": 64, "learning_rate": 0.01}
    given = {"kind": "finetune", "name": "t", "model": str(model), "data": {"train": "t.jsonl"}, "precision": "fp32"}
    return FinetuneSpec.model_validate({**given, "workers": WORKERS, "schedule": schedule, **fields})


def measure(spec: FinetuneSpec, folder: Path) -> list[dict[str, Any]]:
    """Load, look, run one step and save in every worker; what each of them saw.

    Beside the returned facts, ``logits.pt`` (before and after the step) and the saved weights are in the folder.
    """
    from torch import multiprocessing

    os.environ["DS_ACCELERATOR"] = "cpu"
    # What takes seconds to import is imported once: workers are forks of a process that has nothing else.
    multiprocessing.set_forkserver_preload(["deepspeed", "peft", "transformers.models.llama.modeling_llama"])
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    arguments = (spec.model_dump_json(), str(folder), port)
    multiprocessing.start_processes(_work, arguments, nprocs=spec.workers, start_method="forkserver")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(spec.workers)]


def _work(rank: int, spec_json: str, folder: str, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORKERS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    import torch

    from tandem.training.checkpoints.saving import save_weights
    from tandem.training.loop_config import LoopConfig
    from tandem.training.methods.engine import build_engine, configure
    from tandem.training.methods.model import load_model
    from tandem.training.tasks import Generation

    torch.set_num_threads(1)
    spec = FinetuneSpec.model_validate_json(spec_json)
    fields: dict[str, Any] = dict.fromkeys(LoopConfig.__dataclass_fields__)
    config = LoopConfig(**fields | {"spec": spec, "model": spec.model, "steps": 10, "cuda": False})
    settings = configure(config)
    model = load_model(config, Generation(packing=False), settings)
    facts = {"loaded": _sizes(model), "settings": settings}
    engine = build_engine(model, config, settings)
    ids = torch.arange(2 * 16).reshape(2, 16) + 20
    engine.train()
    logits = engine(input_ids=ids, use_cache=False).logits
    before = logits.detach().clone()
    engine.backward(logits.float().square().mean())
    engine.step()  # accumulates nothing more: one micro-batch each
    engine.eval()
    with torch.no_grad():
        after = engine(input_ids=ids, use_cache=False).logits
    facts["grad_norm"] = float(engine.get_global_grad_norm() or 0.0)
    if rank == 0:
        torch.save({"before": before, "after": after}, Path(folder) / "logits.pt")
    save_weights(engine, Path(folder))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(facts))
    torch.distributed.destroy_process_group()


def _sizes(model: Any) -> dict[str, int]:
    """Elements of all frozen or trained base parameters: whole, held by this worker, and present in full."""
    base = [parameter for name, parameter in model.named_parameters() if "lora_" not in name]
    return {
        "whole": sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in base),
        "held": sum(parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else 0 for parameter in base),
        "present": sum(parameter.numel() for parameter in base),
    }
