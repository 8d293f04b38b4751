from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_ins.world import World, make_cluster

from tandem.orchestrator.records import Records


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    cluster = make_cluster(tmp_path)
    made = World(cluster, Records(cluster.database_url, clock=lambda: made.now))
    yield made
    made.records.close()
