"""``python -m tandem.server STORAGE/server.json``: the API on loopback, and the control loop beside it.

The loop is a thread of this process. It needs no Ray to start, so the server comes up while the head is down, and
what the records say goes on when the head is back.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from tandem.errors import DatabaseError, TandemError
from tandem.orchestrator.deploying.deployer import Deployer
from tandem.orchestrator.deploying.releases import Releases
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.holder import Holder
from tandem.orchestrator.lease import Lease, LeaseLostError
from tandem.orchestrator.promotion.promoter import Promoter
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.orchestrator.records import Records
from tandem.orchestrator.roles import SERVER_KEYS, ServerKeys, account
from tandem.orchestrator.settings import ServerSettings
from tandem.server.app import create_app
from tandem.server.apps import only_where_it_acts
from tandem.server.log import log_handler

END_TIMEOUT_S = 5.0
GRACE_S = 1
logger = logging.getLogger("tandem.server")


def loop(orchestrator: Orchestrator, ready: Path, stopping: threading.Event) -> None:
    """Turn until told to stop; a turn that fails is logged, once for each way to fail, and the next one comes.

    Args:
        orchestrator: Does the turns.
        ready: ``cluster.json``, which jobs read: none is started before it is there.
        stopping: Ends the loop.
    """
    problem = ""
    while not stopping.is_set():
        quick = orchestrator.pace.rest()
        if stopping.is_set() or not ready.exists():
            continue
        database = True
        try:
            orchestrator.step(quick=quick)
            found, unforeseen = "", None
        except (DatabaseError, LeaseLostError) as error:
            found, unforeseen, database = str(error), None, isinstance(error, LeaseLostError)
        except Exception as error:  # noqa: BLE001 - logged below; a loop that died would leave jobs unwatched
            found, unforeseen = f"a turn of the control loop failed: {type(error).__name__}: {error}", error
        orchestrator.pace.ended(well=unforeseen is None, database=database)
        if found != problem:
            logger.warning("%s", found or "the control loop goes on", exc_info=unforeseen)
        problem = found


def main(arguments: list[str]) -> int:
    """Serve until the process is told to end; returns the exit status."""
    if len(arguments) != 1:
        print("usage: python -m tandem.server SERVER_JSON", file=sys.stderr)
        return 2
    settings = ServerSettings.load(Path(arguments[0]))
    cluster = settings.cluster
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[log_handler(cluster.storage / "logs" / "server.log")],
    )
    # Two lines a second about polling would bury the rest, and so would each part of Alembic.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    try:
        records = Records(cluster.database_url)
    except TandemError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    ray = HttpRayJobs(cluster)
    lease = Lease(records.database, Holder.this())
    orchestrator = Orchestrator(records, ray, cluster, settings.policy, settings.rules, lease=lease)
    keys = ServerKeys(cluster.storage / SERVER_KEYS, cluster.api_key(), account())
    deployer = Deployer(cluster, ray, Releases(records.database), check=only_where_it_acts(orchestrator, records))
    orchestrator.promotions.promoter = Promoter(cluster.storage, deployer)
    app = create_app(records, orchestrator, deployer, keys)
    # What is there now stays: the collector needn't walk through it, which held up a turn of the loop for 30 ms.
    gc.freeze()
    stopping = threading.Event()
    thread = threading.Thread(
        target=loop, args=(orchestrator, cluster.storage / "cluster.json", stopping), name="control-loop", daemon=True
    )
    thread.start()
    address = urlsplit(cluster.server_url)
    try:
        uvicorn.run(
            app,
            host=address.hostname or "127.0.0.1",
            port=address.port or 0,
            log_level="warning",
            access_log=False,
            # Whoever follows a job would keep us for as long as it runs; they come back to the next server.
            timeout_graceful_shutdown=GRACE_S,
        )
    finally:
        stopping.set()
        orchestrator.pace.wake()
        thread.join(timeout=END_TIMEOUT_S)
        if not thread.is_alive():
            with suppress(DatabaseError):
                lease.release()
        records.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
