"""The processes of one local cluster: found by a mark in their environment, ended without touching anybody else's.

Every process of the cluster inherits `MARK` from `ray start` or from the server. A process that rewrites its title
may overwrite its environment on Linux, so the children of marked processes count too.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tandem.errors import UnreachableError

MARK = "TANDEM_CLUSTER_MARK"
TERM_WAIT_S = 5.0
KILL_WAIT_S = 5.0
# Ports for what binds them later, HAProxy at the first deploy. Below those that the kernel gives to outgoing
# connections (from 32768 on), of which one would keep it from that; beside those of Ray's workers (10002 to 19999) and
# of Serve's replicas (30000 to 31000).
PORTS = range(20_000, 30_000)


def marked(mark: str) -> list[psutil.Process]:
    """Every live process that carries the mark, and their descendants; never this one or its ancestors."""
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid in spared or process.environ().get(MARK) != mark:
                continue
            for member in (process, *process.children(recursive=True)):
                if member.pid not in spared:
                    found[member.pid] = member
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return [process for process in found.values() if alive(process)]


def end(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Ask processes to end, then make them; psutil guards against reused process ids.

    Returns:
        Those that are still there.
    """
    waiting = list(processes)
    for process in waiting:
        _signal(process, kill=False)
    _, waiting = psutil.wait_procs(waiting, timeout=TERM_WAIT_S)
    for process in waiting:
        _signal(process, kill=True)
    _, waiting = psutil.wait_procs(waiting, timeout=KILL_WAIT_S)
    return [process for process in waiting if alive(process)]


def alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie that waits for its parent doesn't."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether no other process is here meanwhile; whoever dies has left.

    Args:
        path: The file by which they know of each other. It stays: one that is made anew is another one.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first = True
    except BlockingIOError:
        first = False
    try:
        yield first
    finally:
        os.close(descriptor)


def port_in_use(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server couldn't listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that a port whose last user has just gone counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def free_port(taken: Iterable[int] = ()) -> int:
    """A port that nobody has now, other than those named.

    Raises:
        UnreachableError: There is none.
    """
    avoided = set(taken)
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, suppress(OSError):
            if port not in avoided:
                probe.bind(("", port))  # on any address: that is where HAProxy listens
                return port
    raise UnreachableError(f"no port is free from {PORTS.start} to {PORTS.stop - 1}", remedy="end what listens there")


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody has now."""
    ports: list[int] = []
    while len(ports) < count:
        ports.append(free_port(ports))
    return ports


def tail(path: Path, lines: int = 3) -> str:
    """The last lines of a log, for an error message."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])
