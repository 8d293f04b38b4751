"""What a benchmark hands back, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Processor, cores and load: another process that runs meanwhile shows in the load."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Result:
    """One run of one benchmark.

    Attributes:
        name: The benchmark.
        question: What it asks, in one sentence.
        settings: Sizes and lengths.
        versions: Of the packages that were compared.
        rows: One dict per contender, the same keys in each, in the table's order. Only ratios within a run mean
            something elsewhere: absolute figures are this machine's.
        machine: Processor, cores, load when the run ended.
        time: ISO 8601, UTC.
    """

    name: str
    question: str
    settings: dict[str, Any]
    versions: dict[str, str]
    rows: list[dict[str, Any]]
    machine: dict[str, Any] = field(default_factory=machine)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def versions(*packages: str) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def show(result: Result) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    said = ", ".join(f"{key} {value}" for key, value in (result.versions | result.settings | result.machine).items())
    table = Table(title=f"{result.name}: {result.question}", caption=said, title_justify="left", caption_justify="left")
    for number, key in enumerate(result.rows[0]):
        table.add_column(key, justify="left" if number == 0 else "right", no_wrap=True)
    for row in result.rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=None if os.isatty(1) else 140).print(table)


def write(result: Result, folder: Path) -> Path:
    """Write ``NAME.json`` under the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    path.write_text(json.dumps(asdict(result), indent=2) + "\n")
    return path
