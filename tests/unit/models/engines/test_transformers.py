from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tandem.errors import InputError, ModelError
from tandem.models.engines import GenerationRequest, open_engine
from tandem.models.engines.transformers import BATCH_ROWS, BATCH_TOKENS, TransformersEngine, plan_batches
from tandem.specs.compare import EngineSpec

SPEC = EngineSpec(name="transformers", max_model_len=256)
QUESTIONS = ("a", "why is the sky blue?", "what? " * 9, "0123456789", "Zz")


def ask(text: str, **options) -> GenerationRequest:
    return GenerationRequest([{"role": "user", "content": text}], **{"max_tokens": 12, **options})


@pytest.fixture(scope="module")
def engine(tiny_llama, tiny_adapters):
    engine = open_engine(SPEC, tiny_llama, tiny_adapters)
    yield engine
    engine.close()


def test_a_batch_gives_what_each_request_gives_alone(engine):
    requests = [ask(q) for q in QUESTIONS]
    together = [g.text for g in engine.generate(requests)]
    assert together == [engine.generate([request])[0].text for request in requests]
    assert len(set(together)) == len(QUESTIONS)


def test_it_computes_with_as_many_threads_as_are_said(tiny_llama):
    before = torch.get_num_threads()
    try:
        open_engine(SPEC.model_copy(update={"threads": before + 1}), tiny_llama, {}).close()
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_each_row_has_its_own_limit(engine):
    short, long = engine.generate([ask("abc", max_tokens=3), ask("abc", max_tokens=11)])
    assert (short.completion_tokens, short.finish_reason) == (3, "length")
    assert long.completion_tokens <= 11
    assert long.text.startswith(short.text)


def test_adapters_are_switched_by_name_and_back(engine):
    base, one, two, again = engine.generate(
        [ask("abc"), ask("abc", adapter="one"), ask("abc", adapter="two"), ask("abc")]
    )
    assert len({base.text, one.text, two.text}) == 3
    assert base.text == again.text


def test_an_adapter_computes_what_peft_computes_alone(engine, tiny_llama, tiny_adapters):
    alone = open_engine(SPEC, tiny_llama, {"two": tiny_adapters["two"]})
    assert alone.generate([ask("abc", adapter="two")])[0].text == engine.generate([ask("abc", adapter="two")])[0].text


def test_the_answer_ends_before_the_stop_string(engine):
    whole = engine.generate([ask("abc", max_tokens=20)])[0].text
    stop = whole[6:8]
    cut = engine.generate([ask("abc", max_tokens=20, stop=(stop,)), ask("abc", max_tokens=20)])
    assert cut[0].text == whole[: whole.index(stop)]
    assert cut[0].finish_reason == "stop"
    assert cut[1].text == whole


def test_a_seeded_sample_does_not_depend_on_its_neighbours(engine):
    sample = ask("abc", temperature=1.0, seed=7)
    alone = engine.generate([sample])[0].text
    assert engine.generate([ask("x", temperature=1.0), sample, ask("y", temperature=1.0)])[1].text == alone
    assert engine.generate([ask("abc", temperature=1.0, seed=8)])[0].text != alone


def test_tokens_are_counted(engine):
    short, longer = engine.generate([ask("(", max_tokens=5), ask("(((((", max_tokens=5)])
    assert longer.prompt_tokens == short.prompt_tokens + 4
    assert short.completion_tokens <= 5
    assert short.latency_ms > 0


def test_what_does_not_fit_is_named(engine):
    with pytest.raises(InputError, match="request 1") as caught:
        engine.generate([ask("a"), ask("b" * 300)])
    assert "max_model_len" in str(caught.value)


def test_an_unknown_adapter_is_named(engine):
    with pytest.raises(InputError, match="request 0: no adapter 'three'"):
        engine.generate([ask("a", adapter="three")])


def test_a_model_without_chat_template_is_refused(tmp_path: Path, tiny_llama):
    for file in tiny_llama.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="chat template"):
        open_engine(SPEC, tmp_path, {})


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, tiny_llama):
    from tiny_models import write_adapter, write_llama

    other = write_adapter(tmp_path / "adapter", write_llama(tmp_path / "other", hidden=32))
    with pytest.raises(ModelError, match="adapter 'foreign'"):
        open_engine(SPEC, tiny_llama, {"foreign": other})


def test_adapters_come_and_go(tiny_llama: Path, tiny_adapters: dict[str, Path], tmp_path: Path) -> None:
    """From none to two to none, with a broken one between: each answers as when the engine was opened with it."""
    from tiny_models import write_adapter, write_llama

    other = write_adapter(tmp_path / "adapter", write_llama(tmp_path / "other", hidden=32))

    def answers(engine: TransformersEngine, *names: str | None) -> list[str]:
        return [answer.text for answer in engine.generate([ask("abc", adapter=name) for name in names])]

    def opened(adapters: dict[str, Path]) -> TransformersEngine:
        engine = open_engine(SPEC, tiny_llama, adapters)
        assert isinstance(engine, TransformersEngine)
        return engine

    base, one, two = answers(opened(tiny_adapters), None, "one", "two")
    engine = opened({})
    for _ in range(2):
        with pytest.raises(ModelError, match="'foreign' doesn't load"):
            engine.load_adapter("foreign", other)
        assert answers(engine, None) == [base]
        for name, path in tiny_adapters.items():
            engine.load_adapter(name, path)
        with pytest.raises(ModelError, match="'foreign' doesn't load"):
            engine.load_adapter("foreign", other)
        assert answers(engine, None, "one", "two") == [base, one, two]
        engine.drop_adapter("two")
        with pytest.raises(InputError, match="no adapter 'two'"):
            answers(engine, "two")
        assert answers(engine, "one", None) == [one, base]
        engine.drop_adapter("one")
        assert answers(engine, None) == [base]


def test_batches_hold_equal_adapters_and_similar_lengths():
    requests = [ask("q", adapter=a) for a in (None, "one", None, "one", None)]
    assert plan_batches(requests, [5, 9, 50, 3, 20]) == [[2, 4, 0], [1, 3]]


def test_batches_are_bounded():
    many = [ask("q")] * (BATCH_ROWS + 1)
    assert [len(b) for b in plan_batches(many, [10] * len(many))] == [BATCH_ROWS, 1]
    huge = [ask("q", max_tokens=1)] * 3
    assert [len(b) for b in plan_batches(huge, [BATCH_TOKENS // 2 - 1] * 3)] == [2, 1]
    assert plan_batches([], []) == []
