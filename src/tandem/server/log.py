"""The server's own log."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 20 * 2**20


def log_handler(path: Path) -> logging.Handler:
    """Writes to stderr; where that is a file of ours, as `tandem up` has it, it and the one before it are bounded.

    Args:
        path: Of that file, if it is one.
    """
    try:
        ours = os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except OSError:
        ours = False
    if not ours:
        return logging.StreamHandler()
    handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=1)
    # What is printed beside the log comes to the same file by stdout and stderr: so it must stay the same file.
    handler.rotator = _empty
    return handler


def _empty(path: str, kept: str) -> None:
    shutil.copyfile(path, kept)
    os.truncate(path, 0)
