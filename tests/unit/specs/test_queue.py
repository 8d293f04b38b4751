from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tandem.specs import JOB_KINDS, KINDS, ClusterSpec, QueueSpec

JOBS: dict[str, dict[str, Any]] = {
    "index": {"sources": ["/docs"]},
    "finetune": {"model": "/m", "data": {"train": "/rows.jsonl"}},
    "compare": {"model": "/m", "eval": "/e", "collection": "i"},
    "promote": {"model": "artifact:tuned"},
    "pipeline": {"steps": {"x": {"spec": {"kind": "index", "name": "i", "sources": ["/docs"]}}}},
}


@pytest.mark.parametrize("kind", JOB_KINDS)
def test_every_kind_of_job_is_queued_alike_and_is_the_same_job_however_it_is(kind: str) -> None:
    known = {"kind": kind, "name": "a", **JOBS[kind]}
    plain = KINDS[kind].model_validate(known)
    queued = KINDS[kind].model_validate({**known, "queue": {"project": "nlp", "priority": 3, "max_run_s": 60}})
    assert plain.canonical()["queue"] == QueueSpec().canonical()
    assert queued.canonical()["queue"]["project"] == "nlp"
    assert queued.digest() == plain.digest()
    assert KINDS[kind].model_validate({**known, "name": "b"}).digest() != plain.digest()
    assert "queue" in KINDS[kind].model_json_schema()["properties"]


@pytest.mark.parametrize("queue", [{"priority": 1001}, {"project": "*"}, {"max_start_s": 0}, {"prio": 1}])
def test_what_the_queue_of_a_job_can_not_be(queue: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QueueSpec.model_validate(queue)


def test_a_cluster_file_has_quotas_by_project_and_for_all_others() -> None:
    spec = ClusterSpec.model_validate({"queue": {"quotas": {"nlp": {"CPU": 8, "GPU:A100": 2}, "*": {"GPU": 1}}}})
    assert spec.queue.quotas == {"nlp": {"CPU": 8, "GPU:A100": 2}, "*": {"GPU": 1}}
    for quotas in ({"Not a name": {"CPU": 1}}, {"nlp": {"CPU": -1}}, {"nlp": {"": 1}}):
        with pytest.raises(ValidationError):
            ClusterSpec.model_validate({"queue": {"quotas": quotas}})


def test_only_a_cluster_elsewhere_grows() -> None:
    grows_to = {"CPU": 64, "GPU": 8}
    assert ClusterSpec(address="http://head:8265", grows_to=grows_to).grows_to == grows_to
    with pytest.raises(ValidationError, match="a local cluster has this machine alone"):
        ClusterSpec(grows_to=grows_to)
