"""What this machine gives to this process."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may use: in a container often fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
