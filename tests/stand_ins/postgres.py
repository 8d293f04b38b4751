"""A real Postgres on loopback, in a temporary folder, with the programs that are installed on this machine."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem.orchestrator.processes import free_port

START_TIMEOUT_S = 60.0
POLL_S = 0.05
USER = "postgres"
_numbers = itertools.count(1)


def missing() -> str | None:
    """Why there can be none here; None where there can."""
    if _program("initdb") is None:
        return "no Postgres is installed (Debian: the package postgresql)"
    if os.getuid() == 0 and not _has_user():
        return f"Postgres doesn't run as root, and there is no user {USER}"
    return None


def _has_user() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def _program(name: str) -> str | None:
    # Debian keeps them out of the PATH.
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(installed[-1]) if installed else shutil.which(name)


@dataclass
class Postgres:
    """One server; `stop` and `start` are those of the machine it stands for."""

    folder: Path
    durable: bool
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Its files."""
        if os.getuid() == 0:
            shutil.chown(self.folder, USER, USER)
        self._run("initdb", "-D", str(self.data), "-U", "tandem", "--auth=trust", "--no-sync", "--encoding=UTF8")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        """It answers when this returns."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder}
        settings |= {"max_connections": 200, "shared_buffers": "32MB"}
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        # Tests that are killed leave none behind.
        with_us = ["setpriv", "--pdeathsig", "QUIT"] if shutil.which("setpriv") else []
        command = [*with_us, _program("postgres") or "postgres", "-D", str(self.data), *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **self._as_user()
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            said = (self.folder / "log").read_text()[-2000:]
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            threading.Event().wait(POLL_S)

    def stop(self, sign: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT breaks connections off, SIGKILL leaves it to recover from its log."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(sign)
            process.wait(START_TIMEOUT_S)

    def database(self) -> str:
        """A fresh one's URL."""
        import psycopg

        name = f"t{next(_numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://tandem@127.0.0.1:{self.port}/{database}"

    def _answers(self) -> bool:
        import psycopg

        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            return True
        return False

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [_program(name) or name, *arguments], capture_output=True, text=True, check=False, **self._as_user()
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _as_user(self) -> dict[str, Any]:
        # Postgres refuses to run as root.
        owner = {"user": USER, "group": USER, "extra_groups": []} if os.getuid() == 0 else {}
        return {
            "cwd": self.folder,
            "start_new_session": True,
            "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        } | owner


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """One that runs; it and its files are gone afterwards.

    Args:
        durable: Whether what it has said to have written survives the machine, as outside of tests.
    """
    # Not under pytest's folder, which root's children of another user can't enter.
    with tempfile.TemporaryDirectory(prefix="tdm-pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Postgres(Path(folder), durable)
        made.make()
        made.start()
        try:
            yield made
        finally:
            # In order it would first write down what nobody needs any more.
            made.stop(signal.SIGINT if durable else signal.SIGQUIT)
