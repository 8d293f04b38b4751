from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch

from tandem.config import machine
from tandem.config.machine import (
    Processor,
    computes_bf16,
    cores,
    limit_threads,
    parse_flags,
    read_processor,
    threads,
)

AVX2 = Processor("x86_64", frozenset({"avx", "avx2"}))
BF16 = Processor("x86_64", frozenset({"avx2", "avx512_bf16"}))
T4 = Processor("x86_64", frozenset({"avx2"}), (7, 5))
H100 = Processor("x86_64", frozenset({"avx2"}), (9, 0))


@pytest.mark.parametrize(
    ("processor", "cuda", "computes"),
    [
        (AVX2, False, False),
        (BF16, False, True),
        (Processor("x86_64", frozenset({"amx_bf16"})), False, True),
        (Processor("x86_64", frozenset({"avx512f", "amx_tile"})), False, False),
        (Processor("arm64", frozenset()), False, False),
        (T4, True, False),
        (H100, True, True),
        (H100, False, False),
        (BF16, True, False),
    ],
)
def test_bf16_is_what_the_device_in_use_computes(processor, cuda, computes):
    assert computes_bf16(processor, cuda=cuda) is computes


def test_flags_come_from_the_first_processor():
    assert parse_flags("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n\nflags\t: other\n") == {
        "fpu",
        "avx2",
        "amx_bf16",
    }
    assert parse_flags("processor : 0\nFeatures : asimd bf16\n") == {"asimd", "bf16"}
    assert parse_flags("") == frozenset()


def test_a_machine_without_cpuinfo_still_has_a_processor(tmp_path: Path):
    assert read_processor(tmp_path / "absent").flags == frozenset()


@pytest.mark.parametrize(
    ("actor", "reserved", "has_gpu"),
    [
        (None, [], True),  # a driver
        ("a1", ["0"], True),
        ("a1", [], False),  # Ray lets it see the GPUs all the same
    ],
)
def test_an_actor_has_the_gpus_that_it_reserved(monkeypatch, actor, reserved, has_gpu):
    context = SimpleNamespace(get_actor_id=lambda: actor, get_accelerator_ids=lambda: {"GPU": reserved})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    assert read_processor().has_gpu is has_gpu


def test_threads_are_those_that_were_said_whether_pytorch_is_imported_or_not(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads() == before
    try:
        limit_threads(3)
        assert (threads(), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (3, 3, "3")
    finally:
        torch.set_num_threads(before)
    monkeypatch.delitem(sys.modules, "torch")
    assert threads() == 3
    for unsaid in ("", "0", "2,1"):
        monkeypatch.setenv("OMP_NUM_THREADS", unsaid)
        assert threads() == cores()


def test_where_there_is_no_driver_pytorch_isnt_asked(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu_driver", lambda: False)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr("builtins.__import__", _without_torch(builtins.__import__))
    assert not read_processor().has_gpu
    monkeypatch.setattr(machine, "has_gpu_driver", lambda: True)
    with pytest.raises(AssertionError, match="PyTorch is asked"):
        read_processor()


def _without_torch(real):
    def imported(name, *args, **named):
        assert name != "torch", "PyTorch is asked"
        return real(name, *args, **named)

    return imported
