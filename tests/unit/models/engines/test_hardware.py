from __future__ import annotations

from pathlib import Path

import pytest

from tandem.errors import InputError
from tandem.models.engines.hardware import (
    Processor,
    build_obstacle,
    choose_dtype,
    choose_engine,
    computes_bf16,
    parse_flags,
    read_processor,
)

AVX2 = Processor("x86_64", frozenset({"avx", "avx2"}))
BF16 = Processor("x86_64", frozenset({"avx2", "avx512_bf16"}))
T4 = Processor("x86_64", frozenset({"avx2"}), (7, 5))
H100 = Processor("x86_64", frozenset({"avx2"}), (9, 0))


@pytest.mark.parametrize(
    ("processor", "engine", "dtype"),
    [
        (AVX2, "vllm", "float32"),
        (AVX2, "transformers", "float32"),
        (BF16, "vllm", "bfloat16"),
        (BF16, "transformers", "float32"),
        (T4, "vllm", "float16"),
        (H100, "vllm", "bfloat16"),
        (H100, "transformers", "bfloat16"),
    ],
)
def test_auto_is_what_the_processor_computes_in(processor, engine, dtype):
    assert choose_dtype("auto", processor, engine=engine) == dtype


def test_a_number_type_by_name_is_taken_as_it_is():
    assert choose_dtype("bfloat16", AVX2, engine="vllm") == "bfloat16"


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
    ("processor", "build", "word"),
    [
        (AVX2, None, "installed"),
        (Processor("x86_64", frozenset()), "cpu", "AVX2"),
        (AVX2, "gpu", "GPU"),
    ],
)
def test_why_a_build_does_not_fit(processor, build, word):
    assert word in (build_obstacle(processor, build) or "")


@pytest.mark.parametrize(
    ("processor", "build"), [(AVX2, "cpu"), (Processor("aarch64", frozenset()), "cpu"), (H100, "gpu")]
)
def test_builds_that_fit(processor, build):
    assert build_obstacle(processor, build) is None


def test_auto_takes_vllm_only_where_nothing_is_in_its_way():
    assert choose_engine("auto", None)[0] == "vllm"
    assert choose_engine("auto", "vLLM isn't installed") == ("transformers", "vLLM isn't installed")
    assert choose_engine("transformers", None)[0] == "transformers"


def test_vllm_by_name_fails_where_it_cannot_run():
    with pytest.raises(InputError, match="AVX2"):
        choose_engine("vllm", "vLLM needs a processor with AVX2")
