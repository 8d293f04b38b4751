from __future__ import annotations

import pytest

from tandem.config.machine import Processor
from tandem.errors import InputError
from tandem.models.engines.hardware import build_obstacle, choose_dtype, choose_engine

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
