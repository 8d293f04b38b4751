"""Who a server is, and the time as its machine counts it."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil


def steady() -> float:
    """Seconds since the machine's start, sleep included: nobody sets this clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def this_boot() -> str:
    """What this start of this machine is called; empty where the system doesn't say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Holder:
    """A server's process.

    Attributes:
        boot: The start of its machine.
        place: Within that: where process ids mean the same.
        pid: Its process id there.
        started: When the process began, in seconds since the epoch, as the system says it.
        other: Tells servers apart where the rest isn't known.
    """

    boot: str
    place: str
    pid: int
    started: str
    other: str

    @classmethod
    def this(cls) -> Holder:
        """This process."""
        try:
            place = str(Path("/proc/self/ns/pid").readlink())
        except OSError:
            place = ""
        return cls(this_boot(), place, os.getpid(), _started(os.getpid()) or "", uuid.uuid4().hex[:8])

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """From what `str` gave; None where something else wrote it."""
        parts = text.split(" ")
        if len(parts) != 5 or not parts[2].isdigit():
            return None
        return cls(parts[0], parts[1], int(parts[2]), parts[3], parts[4])

    def __str__(self) -> str:
        return f"{self.boot} {self.place} {self.pid} {self.started} {self.other}"

    def has_died(self, observer: Holder) -> bool:
        """Whether it is known to have gone; False where that can't be seen from the observer's place."""
        beside = self.boot and self.place and (self.boot, self.place) == (observer.boot, observer.place)
        return bool(beside) and _started(self.pid) != self.started


def _started(pid: int) -> str | None:
    """What tells a process from a later one of the same id: when it began. None where there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else _ticks(pid) or f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def _ticks(pid: int) -> str | None:
    """Linux counts from the machine's start: a clock that is set changes nothing."""
    try:
        # The command's name, in brackets, may have blanks.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
