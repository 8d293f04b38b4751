"""Arms that are asked in a task of Ray's. A GPU is stood in for by a processor: what the task holds is an option."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tandem.config.cluster import Cluster
from tandem.errors import ModelError
from tandem.evaluation.asking.placing import has_gpus, in_a_task, machine_of, where_gpus_are

HELD = {"num_cpus": 1.0}


def process_and(path: Path) -> tuple[int, str]:
    return os.getpid(), path.read_text()


def broken(path: Path) -> None:
    raise ModelError("no weights", where=str(path), remedy="name another")


def test_without_gpus_the_work_is_done_here(ray_cluster: Cluster) -> None:
    assert not has_gpus(ray_cluster)  # and joins Ray
    assert where_gpus_are(process_and, ray_cluster) is process_and
    assert machine_of(ray_cluster).gpus == 0.0


def test_work_in_a_task_is_done_elsewhere_and_sees_the_same_folders(ray_cluster: Cluster, tmp_path: Path) -> None:
    assert not has_gpus(ray_cluster)
    (tmp_path / "asked").write_text("question")
    process, said = in_a_task(process_and, HELD)(tmp_path / "asked")
    assert process != os.getpid()
    assert said == "question"


def test_what_is_raised_in_a_task_is_raised_here(ray_cluster: Cluster, tmp_path: Path) -> None:
    assert not has_gpus(ray_cluster)
    with pytest.raises(ModelError, match="no weights") as raised:
        in_a_task(broken, HELD)(tmp_path)
    assert (raised.value.where, raised.value.remedy) == (str(tmp_path), "name another")
