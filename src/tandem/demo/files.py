"""The YAML files that the demo runs: those of the repository, which a wheel carries along."""

from __future__ import annotations

from pathlib import Path

import tandem


def spec_file(name: str) -> Path:
    """A file such as ``jobs/index.yaml``, from the installed package or from the checkout that it is installed from."""
    package = Path(tandem.__file__).parent
    packed = package / "demo" / "specs" / name
    return packed if packed.is_file() else package.parents[1] / name
