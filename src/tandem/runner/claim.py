"""One driver for an attempt, and none for an attempt that is over.

Ray starts a submission once, but a head that was restarted has forgotten what it started: the driver lives on for up to
a minute beside its successor. And a request may reach Ray after the server that sent it has died and another one has
written down that the job is stopped. So the server says in the job's folder which attempt may work; a driver looks
there before it begins, and as long as it lives.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from tandem.artifacts.job import ATTEMPT, driver_file

LOOK_EVERY_S = 1.0


def wanted(folder: Path, attempt: str) -> bool:
    """Whether an attempt may work on the job of a folder."""
    try:
        return (folder / ATTEMPT).read_text() == attempt
    except FileNotFoundError:
        # A storage folder that is away for the moment says nothing.
        return not folder.is_dir()


def claim(folder: Path, attempt: str) -> bool:
    """Be the driver of an attempt; False where it has one already, or may not work any more."""
    if not wanted(folder, attempt):
        return False
    try:
        (folder / driver_file(attempt)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def watch(folder: Path, attempt: str, end: Callable[[], None] | None = None) -> threading.Event:
    """Look from a thread whether the attempt may still work, and end this process at once when it may not.

    Args:
        folder: The job's.
        attempt: This driver's.
        end: Ends it; by default a SIGKILL, so that nothing is written any more.

    Returns:
        What ends the looking.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            try:
                stays = wanted(folder, attempt)
            except OSError:
                continue
            if not stays and not over.is_set():
                print(f"attempt {attempt} isn't wanted any more: another one has taken its place", flush=True)
                (end or _die)()
                return

    threading.Thread(target=look, name="claim", daemon=True).start()
    return over


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
