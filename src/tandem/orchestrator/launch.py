"""How a job's driver is started."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.orchestrator.jobs import Job


def entrypoint(cluster: Cluster, job_dir: Path, *, own_python: bool = False) -> str:
    """The driver's command line.

    It starts with `exec`: behind a shell of its own Ray calls a killed driver SUCCEEDED.

    Args:
        cluster: Where it runs.
        job_dir: The job's folder.
        own_python: It brings packages along: Ray made it an interpreter that finds them.
    """
    python = sys.executable if cluster.local and not own_python else "python"
    return f"exec {shlex.quote(python)} -m tandem.runner {shlex.quote(str(job_dir))}"


def job_environment(cluster: Cluster) -> dict[str, str]:
    """What a driver is told of its cluster; nodes elsewhere know their own head and token."""
    return cluster.ray_env() if cluster.local else {STORAGE_VARIABLE: str(cluster.storage)}


def metadata(job: Job) -> dict[str, str]:
    """What the table of jobs on Ray's dashboard shows of one."""
    return {
        "name": job.name,
        "kind": job.kind,
        "job": job.id,
        "project": job.queue.project,
        "user": job.user,
        "attempt": str(job.attempt),
    }
