from __future__ import annotations

import asyncio

import pytest
from unit.serving.fakes import Clock

from tandem.serving import readiness
from tandem.serving.readiness import BUSY_S, KEPT_S, Readiness

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "TIMEOUT_S", 0.02)


class Part:
    """Answers, fails or hangs."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.hangs = False

    async def __call__(self) -> None:
        self.asked += 1
        if self.error:
            raise self.error
        if self.hangs:
            await asyncio.Event().wait()


async def test_parts_are_asked_once_a_second_whoever_wants_to_know():
    part, clock = Part(), Clock(100)
    ready = Readiness({"llm": part}, clock)
    assert await asyncio.gather(*[ready() for _ in range(5)]) == [{}] * 5
    assert part.asked == 1
    part.error = RuntimeError("a secret")
    clock.now += KEPT_S / 2
    assert await ready() == {}
    clock.now += KEPT_S / 2
    assert await ready() == {"llm": "it can't answer now"}
    part.error = None
    clock.now += KEPT_S
    assert await ready() == {}


async def test_what_is_missing_is_named_with_nothing_of_its_errors_and_logged_once(caplog):
    ill, away, well, clock = Part(), Part(), Part(), Clock(100)
    ill.error, away.hangs = RuntimeError("a secret"), True
    ready = Readiness({"ill": ill, "away": away, "well": well}, clock)
    for _ in range(3):
        assert await ready() == {"ill": "it can't answer now", "away": "no answer within 0.02 s"}
        clock.now += KEPT_S
    assert [record.message for record in caplog.records] == [
        "ill isn't ready: RuntimeError",
        "away isn't ready: TimeoutError",
    ]


async def test_a_part_that_answers_requests_is_busy_and_not_away():
    part, clock = Part(), Clock(100)
    part.hangs = True
    ready = Readiness({"llm": part}, clock)
    ready.heard("llm")
    clock.now += KEPT_S
    assert await ready() == {}
    clock.now += BUSY_S
    assert await ready() != {}
