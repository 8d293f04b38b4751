"""What a cluster of GPUs is asked for: shown as configuration, since no GPU is here."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.errors import InputError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.scaling import gpus_of_each, scaling_config, torch_config

PROCESSORS = {"CPU": 8.0, "memory": 1e10}
A100 = {"CPU": 32.0, "GPU": 4.0, "accelerator_type:A100": 1.0}
L4 = {"CPU": 16.0, "GPU": 2.0, "accelerator_type:L4": 1.0}


def spec(**fields: Any) -> FinetuneSpec:
    schedule = {"batch_size": 96, "micro_batch_size": 1}
    known = {"kind": "finetune", "name": "t", "model": "/m", "data": {"train": "/rows.jsonl"}, "schedule": schedule}
    return FinetuneSpec.model_validate({**known, **fields})


def test_without_gpus_workers_reserve_processors_and_speak_by_gloo() -> None:
    asked = spec(workers=2, cpus_per_worker=4)
    assert gpus_of_each(asked, [PROCESSORS], {}) == 0
    scaling = scaling_config(asked, 0)
    assert (scaling.num_workers, scaling.use_gpu, scaling._resources_per_worker_not_none) == (2, False, {"CPU": 4})
    assert torch_config(0).backend == "gloo"


def test_with_gpus_each_worker_reserves_its_own_and_they_speak_by_nccl() -> None:
    asked = spec(workers=[2, 4], cpus_per_worker=8)
    gpus = gpus_of_each(asked, [PROCESSORS, A100], {})
    assert gpus == 1
    scaling = scaling_config(asked, gpus)
    assert (scaling.num_workers, scaling.use_gpu) == ((2, 4), True)
    assert scaling._resources_per_worker_not_none == {"CPU": 8, "GPU": 1}
    assert torch_config(gpus).backend == "nccl"


def test_a_share_of_a_gpu_and_several_are_reserved_as_said() -> None:
    for each in (0.5, 2.0):
        asked = spec(gpus_per_worker=each)
        assert gpus_of_each(asked, [A100], {}) == each
        assert scaling_config(asked, each)._resources_per_worker_not_none == {"CPU": 1, "GPU": each}


def test_gpus_of_a_type_are_asked_for_by_rays_resource_for_it() -> None:
    asked = spec(workers=4, accelerator_type="A100")
    gpus = gpus_of_each(asked, [PROCESSORS, L4, A100], {})
    assert gpus == 1
    reserved = scaling_config(asked, gpus)._resources_per_worker_not_none
    assert reserved == {"CPU": 1, "GPU": 1, "accelerator_type:A100": 0.001}


def test_a_type_that_no_machine_has_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"no machine of the cluster has H100: it has A100, L4") as caught:
        gpus_of_each(spec(accelerator_type="H100"), [L4, A100, PROCESSORS], {})
    assert caught.value.where == "job t: accelerator_type"
    with pytest.raises(InputError, match="it has no GPUs"):
        gpus_of_each(spec(accelerator_type="H100"), [PROCESSORS], {})


def test_machines_without_the_type_do_not_count() -> None:
    assert gpus_of_each(spec(workers=6, gpus_per_worker=1), [L4, A100], {}) == 1
    told = "6 workers with 1 GPUs each, and the cluster has 4 on machines with A100"
    with pytest.raises(InputError, match=told):
        gpus_of_each(spec(workers=6, accelerator_type="A100"), [L4, A100], {})


def test_more_than_the_cluster_has_is_refused() -> None:
    with pytest.raises(InputError, match="16 workers with 1 CPUs each, and the cluster has 8"):
        gpus_of_each(spec(workers=16), [PROCESSORS], {})
    with pytest.raises(InputError, match="1 workers with 1 GPUs each, and the cluster has 0"):
        gpus_of_each(spec(gpus_per_worker=1), [PROCESSORS], {})


def test_a_cluster_that_grows_is_asked_for_what_it_will_have() -> None:
    grows_to = {"CPU": 64.0, "GPU": 8.0, "GPU:A100": 4.0}
    assert gpus_of_each(spec(workers=4, accelerator_type="A100"), [PROCESSORS], grows_to) == 1
    assert gpus_of_each(spec(workers=16), [PROCESSORS], grows_to) == 0
    with pytest.raises(InputError, match="no machine of the cluster has H100"):
        gpus_of_each(spec(accelerator_type="H100"), [PROCESSORS], grows_to)
    with pytest.raises(InputError, match="6 workers with 1 GPUs each, and the cluster has 4"):
        gpus_of_each(spec(workers=6, accelerator_type="A100"), [PROCESSORS], grows_to)
