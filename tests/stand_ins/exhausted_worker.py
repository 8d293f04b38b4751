"""`exhausted_worker.py {"spec", "storage", "id"}`: a finetune job whose second worker's memory runs out.

At its first step the kernel lets it have `LEFT` more bytes (RLIMIT_DATA), as if its machine had no more. The last line
that it prints is the error with which the job ends, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.config.cluster import Cluster
from tandem.errors import TandemError
from tandem.retrieval.actor import NAMESPACE
from tandem.specs.finetune import FinetuneSpec
from tandem.training import job

LEFT = 128 * 1024**2


def leave_little() -> None:
    """What each of Ray's processes does first: whatever trains as second worker is limited when it begins."""
    from tandem.training import worker

    train_step = worker.train_step

    def limited(this: Any, *arguments: Any) -> Any:
        import re
        import resource

        if this.rank == 1:
            (held,) = re.findall(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
            limit = int(held) * 1024 + LEFT
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        return train_step(this, *arguments)

    worker.train_step = limited


def main(asked: dict[str, Any]) -> None:
    import ray

    cluster = Cluster.load(Path(asked["storage"]))
    environment = {"worker_process_setup_hook": leave_little}
    ray.init(address=cluster.ray_address, namespace=NAMESPACE, runtime_env=environment, log_to_driver=False)
    spec = FinetuneSpec.model_validate(asked["spec"])
    folder = cluster.storage / "jobs" / asked["id"]
    folder.mkdir(parents=True)
    try:
        job.run(spec, JobContext(folder.name, spec.name, folder, cluster.storage, cluster))
    except TandemError as error:
        told = {"type": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
