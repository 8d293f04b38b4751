"""DeepSpeed, set up for what the workers find themselves on."""

from __future__ import annotations

from typing import Any

from tandem.config.light_imports import absent
from tandem.config.machine import computes_bf16, read_processor
from tandem.training.loop_config import LoopConfig
from tandem.training.methods.deepspeed import Hardware, build_config
from tandem.training.schedule import learning_rate_factor


def configure(config: LoopConfig) -> dict[str, Any]:
    """Join the workers' process group and agree on DeepSpeed's configuration; all of them call it together.

    Args:
        config: The run.

    Raises:
        SpecError: The hardware can't do what the spec asks for.
    """
    # Its tuner imports MLflow where that is installed, for itself alone.
    with absent("mlflow"):
        import deepspeed
        import deepspeed.ops
    import torch
    import torch.distributed

    cuda = config.cuda
    if not cuda:
        # DeepSpeed compiles this for a minute, and uses it for inference with split tensors only.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    # All must agree: one worker without bf16 makes it fp32 for everybody.
    agreed = torch.tensor(int(computes_bf16(read_processor(), cuda=cuda)), device="cuda" if cuda else "cpu")
    torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MIN)
    return build_config(config.spec, config.plain, Hardware(cuda=cuda, bf16=bool(agreed.item())))


def build_engine(model: Any, config: LoopConfig, settings: dict[str, Any]) -> Any:
    """DeepSpeed's engine around a model, on this worker's device; all workers call it together.

    Args:
        model: What is trained; parameters that require no gradient stay as they are.
        config: The run.
        settings: From `configure`.
    """
    import deepspeed
    import torch

    schedule = config.spec.schedule

    def scheduler(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, steps=config.steps, schedule=schedule)
        )

    engine, _, _, _ = deepspeed.initialize(
        model=model,
        model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
        config=settings,
        lr_scheduler=None if "scheduler" in settings else scheduler,
    )
    return engine


def optimizer_name(optimizer: Any) -> str:
    """What steps: the optimizer's class, and whether its step is one kernel.

    Args:
        optimizer: The one that DeepSpeed made of its configuration, not its own around it.
    """
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return type(optimizer).__name__ + (", fused" if fused else "")
