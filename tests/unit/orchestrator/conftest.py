from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stand_ins.world import World, make_cluster

from tandem.orchestrator.records import Records


@pytest.fixture
def world(tmp_path: Path, database_url: str) -> Iterator[World]:
    cluster = replace(make_cluster(tmp_path), database_url=database_url)
    made = World(cluster, Records(cluster.database_url, clock=lambda: made.now))
    yield made
    made.records.close()
