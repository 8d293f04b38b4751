from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch

from tandem.config.machine import Processor, computes_bf16, parse_flags, read_processor

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
