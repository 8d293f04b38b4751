"""A real Prometheus with this repository's configuration, where one is installed; and what its files ask for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tandem.orchestrator.processes import free_port

FOLDER = Path(__file__).parents[2] / "cluster" / "observability"
ALERTS = FOLDER / "alerts.yaml"
CONFIG = FOLDER / "prometheus.yaml"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
START_TIMEOUT_S = 60.0
POLL_S = 0.1
_NAME = re.compile(r"\b(?:ray|tandem|autoscaler|process)_[a-z0-9_]+")
_TEXT = re.compile(r'"[^"]*"')


def missing() -> str | None:
    """Why there can be none here; None where there can."""
    lacking = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)} (Debian: the package prometheus)" if lacking else None


def promtool(*arguments: str) -> str:
    """What it says, after checking that it found no fault."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> dict[str, dict[str, Any]]:
    """The rules of the alerts, by name."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels(path: Path) -> dict[str, list[str]]:
    """What each panel of a dashboard asks, by its title, with its variables as Grafana fills them in."""
    board = json.loads(path.read_text())
    filled = re.compile(r"\$__rate_interval|\$\w+")
    return {
        panel["title"]: [
            filled.sub(lambda hit: "1m" if hit[0] == "$__rate_interval" else ".*", target["expr"])
            for target in panel["targets"]
        ]
        for panel in board["panels"]
        if panel["type"] != "row"
    }


def metrics_in(expression: str) -> set[str]:
    """Names of the metrics that an expression asks for."""
    return set(_NAME.findall(_TEXT.sub('""', expression)))


@dataclass
class Prometheus:
    """One that runs."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, trust_env=False)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def value(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now: one entry for each time series."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def targets(self) -> dict[str, list[tuple[str, str]]]:
        """By the job's name, how each target is and what is wrong with it."""
        found: dict[str, list[tuple[str, str]]] = {}
        for target in self.ask("targets")["activeTargets"]:
            found.setdefault(target["labels"]["job"], []).append((target["health"], target["lastError"]))
        return found


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """One that runs until the block ends.

    Args:
        config: Its configuration.
        folder: For its data.
    """
    url = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}", f"--web.listen-address={url}"]
    with (folder.parent / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_ready(url):
            said = (folder.parent / "prometheus.log").read_text()[-2000:]
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            threading.Event().wait(POLL_S)
        yield Prometheus(f"http://{url}")
    finally:
        process.kill()
        process.wait()


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready", trust_env=False).is_success
    except httpx.TransportError:
        return False
