from __future__ import annotations

from typing import Any

import pytest
from stand_ins.line import finetune, make_room
from stand_ins.world import index_spec

from tandem.orchestrator.ray_jobs import machine_of
from tandem.orchestrator.resources import demand, lacking, offered, says, says_short
from tandem.specs import CompareSpec

GIB = 2**30


@pytest.mark.parametrize(
    ("spec", "gpus", "needs"),
    [
        (finetune(3), False, {"CPU": 3}),
        (finetune(2, cpus_per_worker=4), True, {"CPU": 8, "GPU": 2}),
        (finetune(2, gpus_per_worker=0), True, {"CPU": 2}),
        (finetune(2, gpus_per_worker=0.5), True, {"CPU": 2, "GPU": 1}),
        (finetune(2, accelerator_type="A100"), False, {"CPU": 2, "GPU": 2, "GPU:A100": 2}),
        (index_spec("i", embedder={"workers": 2}), True, {"CPU": 3}),
        (index_spec("i", embedder={"workers": 2, "gpus": 0.5}), True, {"CPU": 3, "GPU": 1}),
        (index_spec("i", embedder={"gpus": 1e-200}), False, {"CPU": 2}),  # as much as none
    ],
)
def test_what_a_job_needs(spec: dict[str, Any], gpus: bool, needs: dict[str, float]) -> None:
    assert demand(spec, gpus=gpus).needs == needs
    compare = {"kind": "compare", "name": "c", "model": "/m", "eval": "/e", "collection": "i"}
    # Its engine is an actor that holds a GPU where there are any.
    expected = {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
    assert demand(CompareSpec.model_validate(compare).canonical(), gpus=gpus).needs == expected


def test_elastic_workers_need_their_minimum_and_hold_what_there_is_up_to_their_maximum() -> None:
    elastic = demand(finetune([1, 3]), gpus=False)
    assert elastic.needs == {"CPU": 1}
    assert [make_room({"CPU": cpus}).held_by(elastic) for cpus in (1, 2, 8)] == [{"CPU": 1}, {"CPU": 2}, {"CPU": 3}]
    assert make_room({"CPU": 1}).held_by(demand(finetune(2), gpus=False)) == {"CPU": 2}


def test_what_a_node_offers() -> None:
    raylet = {
        "CPU": 8.0, "GPU": 2.0, "accelerator_type:A100": 1.0, "memory": 4.0 * GIB, "object_store_memory": 1.0,
        "node:10.0.0.1": 1.0, "node:__internal_head__": 1.0, "licence": 1.0,
    }  # fmt: skip
    machine = machine_of({"raylet": {"resourcesTotal": raylet}})
    assert offered(machine.resources) == {"CPU": 8, "GPU": 2, "GPU:A100": 2, "memory": 4 * GIB, "licence": 1}
    assert offered({"CPU": 2.0, "accelerator_type:L4": 1.0}) == {"CPU": 2}


def test_what_is_there_what_will_be_and_what_is_kept_from_jobs() -> None:
    room = make_room({"CPU": 4, "GPU": 1}, {"CPU": 4}, reserved={"GPU": 1, "CPU": 2}, grows_to={"CPU": 16})
    assert room.now == {"CPU": 6, "GPU": 0}
    assert room.total == {"CPU": 14, "GPU": 0}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (finetune(4), None),
        (finetune(9), "needs 9 CPUs, the cluster has 8 CPUs"),
        # Eight in all, but four on each.
        (finetune(1, cpus_per_worker=6), "needs 1 × (6 CPUs), each on one machine, and the cluster's machines have"),
        (finetune(4, cpus_per_worker=2), None),
        (finetune(3, cpus_per_worker=2.5), "needs 3 × (2.5 CPUs)"),
        (finetune(2, accelerator_type="A100"), "needs 2 GPUs of type A100, the cluster has 1 GPU of type A100"),
        (finetune(1, accelerator_type="H100"), "needs 1 GPU of type H100, the cluster has 0 GPUs of type H100"),
        # The larger part is placed first.
        (index_spec("i", embedder={"workers": 1, "gpus": 1}), None),
    ],
)
def test_whether_a_job_fits_an_empty_cluster(spec: dict[str, Any], why: str | None) -> None:
    room = make_room({"CPU": 4.0}, offered({"CPU": 4.0, "GPU": 1.0, "accelerator_type:A100": 1.0}))
    said = room.too_small_for(demand(spec, gpus=False))
    assert said is None if why is None else str(said).startswith(why)


def test_a_cluster_that_grows_is_large_enough_for_what_it_grows_to() -> None:
    room = make_room({"CPU": 4.0}, grows_to={"CPU": 16.0})
    assert room.too_small_for(demand(finetune(1, cpus_per_worker=8), gpus=False)) is None
    said = room.too_small_for(demand(finetune(17), gpus=False))
    assert said == "needs 17 CPUs, the cluster grows to 16 CPUs"


def test_jobs_share_a_resource_that_one_alone_may_have_whole() -> None:
    room = make_room({"CPU": 6.0, "GPU": 1.0}, shared=4.0)
    assert room.limit({}) == {"CPU": 6, "GPU": 1}
    assert room.limit({"CPU": 1.0}) == {"CPU": 4, "GPU": 1}


def test_amounts_in_words() -> None:
    assert says({"CPU": 1, "GPU": 2, "GPU:A100": 2, "memory": 1.5 * GIB, "licence": 2}) == (
        "1 CPU, 2 GPUs of type A100, 1.5 GiB of memory, 2 licence"
    )
    assert says({"CPU": 1, "GPU": 2}, ["GPU"]) == "2 GPUs"
    assert says({}) == "nothing"
    needs = {"CPU": 8.0, "GPU": 4.0, "GPU:L4": 4.0, "memory": 2.0 * GIB}
    free = lacking(needs, {"CPU": 1.0, "GPU": 2.0, "memory": 1.0 * GIB, "GPU:L4": -1.0})
    assert says_short(needs, free) == (
        "8 CPUs, 1 is free, and 4 GPUs of type L4, 0 are free, and 2.0 GiB of memory, 1.0 GiB are free"
    )
    # A third and two thirds are one.
    assert lacking({"GPU": 1.0}, {"GPU": 1 / 3 + 2 / 3 - 1e-12}) == {}
