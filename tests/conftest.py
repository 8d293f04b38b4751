"""What every test may use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_ins.postgres import Postgres, missing, postgres

from tandem.artifacts.uris import cache_path

# One thread a process: tests run beside Ray's own processes on few cores, where two would wait for each other at every
# operation.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing here asks a hub for anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a cache of its own, so that what is tested is converted by today's code; downloads are shared."""
    downloads = cache_path() / "pypi"
    downloads.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="tandem-cache-"))
    (own / "pypi").symlink_to(downloads)
    os.environ["TANDEM_CACHE"] = str(own)
    config.add_cleanup(lambda: shutil.rmtree(own, ignore_errors=True))


@pytest.fixture(scope="session")
def a_postgres() -> Iterator[Postgres]:
    """A real one, for the tests of a run that need a database each."""
    if why := missing():
        pytest.skip(why)
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with nothing in it, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tandem.db'}"
    running: Postgres = request.getfixturevalue("a_postgres")
    return running.database()
