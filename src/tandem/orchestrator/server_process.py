"""The Tandem server as a process of its own session, so that it outlives whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import httpx

from tandem.errors import TandemError
from tandem.orchestrator.processes import MARK, tail
from tandem.orchestrator.settings import ServerSettings

READY_TIMEOUT_S = 60.0
POLL_S = 0.1


def start_server(settings: ServerSettings, mark: str) -> int:
    """Start ``python -m tandem.server`` and wait until it answers.

    Args:
        settings: Written to ``server.json``, from which the server reads them.
        mark: Goes into its environment.

    Returns:
        Its process id.

    Raises:
        TandemError: It ended, or didn't answer in time.
    """
    log = settings.cluster.storage / "logs" / "server.log"
    # It must find its own cluster's Ray by the settings alone.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {MARK: mark}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tandem.server", str(settings.save())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + READY_TIMEOUT_S
    url = f"{settings.cluster.server_url}/healthz"
    while not _answers(url):
        if process.poll() is not None:
            raise TandemError(f"the server didn't start: {tail(log)}", where=str(log), remedy="the log says more")
        if time.monotonic() > deadline:
            raise TandemError(f"the server didn't answer within {READY_TIMEOUT_S:.0f} s", where=str(log))
        time.sleep(POLL_S)
    return process.pid


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=POLL_S * 20, trust_env=False).is_success
    except httpx.TransportError:
        return False
