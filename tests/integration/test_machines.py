"""What the plan compares an estimate with, as a real dashboard says it."""

from __future__ import annotations

import psutil
import pytest

from tandem.config.cluster import Cluster
from tandem.orchestrator.ray_jobs import HttpRayJobs


def test_the_dashboard_knows_the_machines_memory(ray_cluster: Cluster) -> None:
    machines = HttpRayJobs(ray_cluster).machines()
    assert machines is not None
    (machine,) = machines
    assert machine.cpus == 4
    assert machine.memory == pytest.approx(psutil.virtual_memory().total, rel=0.1)
