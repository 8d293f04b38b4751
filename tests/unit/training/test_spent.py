from __future__ import annotations

from pathlib import Path

from tandem.training.spent import SPENT, Spent


def test_attempts_add_up_whichever_workers_they_had_and_however_they_ended(tmp_path: Path) -> None:
    now = 100.0

    def attempt(since: float) -> Spent:
        return Spent(tmp_path / SPENT, cpus=2.0, gpus=0.5, since=since, clock=lambda: now)

    first = attempt(90.0)
    first.count(3)
    now = 104.0
    first.count(1)
    assert (first.cpu_s, first.gpu_s) == (2.0 * 34, 0.5 * 34)
    # Killed: what wasn't counted by then is lost, the rest isn't.
    now = 1000.0
    second = attempt(990.0)
    second.count(1)
    now = 500.0  # a clock that was set back
    second.count(1)
    assert (second.cpu_s, second.gpu_s) == (2.0 * 44, 0.5 * 44)
