"""The training curve, as a picture."""

from __future__ import annotations

from pathlib import Path

from tandem.training.metrics import Record


def draw_curve(records: list[Record], path: Path) -> None:
    """Loss and evaluation loss over the steps, as a PNG.

    Args:
        records: Of steps, in order.
        path: The file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([r["step"] for r in records], [r["loss"] for r in records], label="training", linewidth=1.5)
    held_out = [record for record in records if "eval_loss" in record]
    if held_out:
        axes.plot([r["step"] for r in held_out], [r["eval_loss"] for r in held_out], "o--", label="held out")
    axes.set(xlabel="step", ylabel="loss per answer token (nats)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
