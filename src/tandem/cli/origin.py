"""From which state of the code a job is submitted."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import tandem

GIT_TIMEOUT_S = 5.0


def here(folder: Path | None = None) -> dict[str, Any]:
    """Versions of this client, and the commit of a folder, if it is under git.

    Args:
        folder: None: the current one.
    """
    found: dict[str, Any] = {"tandem": tandem.__version__, "python": platform.python_version()}
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        found["git_commit"] = commit
        found["git_changed"] = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    return found


def _git(folder: Path | None, *arguments: str) -> str:
    """What git says; nothing where there is no git, no repository or no answer in time."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
