"""When a run must stop because of its loss, and what is kept for whoever has to find out why."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tandem.config.files import write_whole
from tandem.errors import DivergedError
from tandem.training.data.dataset import read_ids
from tandem.training.loop_config import LoopConfig
from tandem.training.metrics import Record
from tandem.training.tasks import TaskData

OFFENDING_BATCH = "offending-batch.json"
LEAST_GROWTH = 1.0  # nats: a loss of 0.01 that becomes 0.05 has grown five times, and is still a good one
WINDOW = 10  # steps over which the loss is averaged before it is called diverging: one hard batch is no divergence


def fault(losses: Sequence[float], *, limit: float | None) -> str | None:
    """What is wrong with a run's loss, or None.

    Args:
        losses: Of all steps so far, the last one included.
        limit: How many times the mean of the first `WINDOW` losses that of the last may reach; None for no limit. It
            must grow by `LEAST_GROWTH` besides.
    """
    if not math.isfinite(losses[-1]):
        return f"the loss is {losses[-1]}"
    if limit is None or len(losses) < 2 * WINDOW:
        return None
    first, last = math.fsum(losses[:WINDOW]) / WINDOW, math.fsum(losses[-WINDOW:]) / WINDOW
    if last > limit * first and last > first + LEAST_GROWTH:
        return f"the loss diverges: {last:.4g} on average over the last {WINDOW} steps, {first:.4g} over the first"
    return None


def describe_batch(*, step: int, why: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of the file: rows whose loss isn't finite come first, then those of the highest loss.

    Args:
        step: From 1.
        why: What `fault` said.
        rows: Each with ``id``, ``loss`` (per loss-carrying token, nats; None if it isn't known), ``input_ids``
            and ``text``.
    """

    def severity(row: Mapping[str, Any]) -> float:
        loss = row["loss"]
        return -math.inf if loss is None else math.inf if not math.isfinite(loss) else float(loss)

    return {"step": step, "why": why, "rows": sorted(rows, key=severity, reverse=True)}


def write_batch(path: Path, batch: Mapping[str, Any]) -> None:
    """Write the file; losses that aren't finite become strings ("nan", "inf"), since JSON has no word for them."""
    rows = [{**row, "loss": _as_json(row["loss"])} for row in batch["rows"]]
    write_whole(path, json.dumps({**batch, "rows": rows}, ensure_ascii=False, allow_nan=False) + "\n")


def diverged(batch: Mapping[str, Any], path: Path) -> DivergedError:
    """The error that ends the run, and names the file and the rows that are to blame, if some are."""
    rows = batch["rows"]
    broken = [str(row["id"]) for row in rows if row["loss"] is not None and not math.isfinite(row["loss"])]
    who = ""
    if broken and len(broken) == len(rows):
        who = ": for every row, so the weights were broken before"
    elif broken:
        who = f": because of {len(broken)} of {len(rows)} rows ({', '.join(broken[:5])}{', …' if broken[5:] else ''})"
    return DivergedError(
        f"{batch['why']} at step {batch['step']}{who}",
        where=str(path),
        remedy="the file has the rows with their tokens and losses; mend them, or lower schedule.learning_rate",
    )


def _as_json(loss: float | None) -> float | str | None:
    return loss if loss is None or math.isfinite(loss) else str(loss)


class LossGuard:
    """Watches a run's loss, the same on every worker, and ends the run when it is broken.

    Args:
        config: The run.
        writes: Whether this worker is the one that saves the batch.
    """

    def __init__(self, config: LoopConfig, *, writes: bool) -> None:
        self._config = config
        self._writes = writes
        self._losses: list[float] = []

    def resume(self, records: Sequence[Record], step: int) -> None:
        """Take over the losses of an earlier attempt.

        Args:
            records: Of its steps.
            step: Steps done; what came after will be done again.
        """
        self._losses = [record["loss"] for record in records if record["step"] <= step]

    def check_loss(
        self, loss: float, data: TaskData, batch: Sequence[int], step: int, row_losses: Callable[[], list[float]]
    ) -> None:
        """Look at a step's loss, before its gradient changes the weights.

        Args:
            loss: Of the batch.
            data: All examples.
            batch: Indices of the batch.
            step: From 0.
            row_losses: The loss of each row of the batch; called when the run ends, on every worker.

        Raises:
            DivergedError: It isn't a number, or it grows and grows; the batch is saved.
        """
        self._losses.append(loss)
        why = fault(self._losses, limit=self._config.spec.schedule.max_loss_growth)
        if why is not None:
            self._stop(why, data, batch, step, row_losses(), source=self._config.train)

    def check_evaluation(self, loss: float, data: TaskData, step: int, row_losses: Callable[[], list[float]]) -> None:
        """Look at the loss on the held-out rows: one that is no number can't say which weights are the best.

        Args:
            loss: Of all of them.
            data: The held-out examples.
            step: From 0, the last one that is done.
            row_losses: The loss of each row; called when the run ends, on every worker.

        Raises:
            DivergedError: It isn't a number; the rows are saved.
        """
        if not math.isfinite(loss):
            why = f"the loss on the held-out rows is {loss}"
            self._stop(why, data, range(len(data)), step, row_losses(), source=str(self._config.eval))

    def check_gradient(
        self, grad_norm: float, data: TaskData, batch: Sequence[int], step: int, *, scaled: bool
    ) -> None:
        """Look at a step's gradient, after the step: DeepSpeed doesn't take it then, but for ZeRO 0 in fp32.

        Args:
            grad_norm: Before clipping.
            data: All examples.
            batch: Indices of the batch.
            step: From 0.
            scaled: A loss scaler (fp16) skips the steps whose gradient isn't finite.

        Raises:
            DivergedError: It isn't finite, and nothing copes with that; the batch is saved.
        """
        if not scaled and not math.isfinite(grad_norm):
            why = f"the gradient norm is {grad_norm}, though the loss ({self._losses[-1]:.4g}) is a number"
            self._stop(why, data, batch, step, None, source=self._config.train)

    def _stop(
        self,
        why: str,
        data: TaskData,
        batch: Sequence[int],
        step: int,
        losses: Sequence[float] | None,
        *,
        source: str,
    ) -> NoReturn:
        from transformers import AutoTokenizer

        config = self._config
        path = Path(config.metrics).with_name(OFFENDING_BATCH)
        ids = read_ids(Path(source))
        tokenizer = AutoTokenizer.from_pretrained(config.model, trust_remote_code=False)
        rows = []
        for place, index in enumerate(batch):
            tokens = data.collate([index], config.pad_id)[0][0].tolist()
            rows.append(
                {
                    "id": ids[index] if ids else str(index),
                    "loss": None if losses is None else losses[place],
                    "input_ids": tokens,
                    "text": tokenizer.decode(tokens),
                }
            )
        described = describe_batch(step=step + 1, why=why, rows=rows)
        if self._writes:
            write_batch(path, described)
        raise diverged(described, path)
