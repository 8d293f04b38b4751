"""What every test may use."""

from __future__ import annotations

import os

# One thread a process: tests run beside Ray's own processes on few cores.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing here asks a hub for anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
