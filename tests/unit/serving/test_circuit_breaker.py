from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from unit.serving.fakes import Clock

from tandem.serving.circuit_breaker import Call, CircuitBreaker

PAUSE_S = 30.0


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("it", 3, PAUSE_S, clock)


def fail(breaker: CircuitBreaker, times: int = 1, *, begun: bool = False) -> None:
    for _ in range(times):
        with suppress(OSError), breaker.call() as call:
            if begun:
                call.begun()
            raise OSError("away")


def succeed(breaker: CircuitBreaker) -> None:
    with breaker.call() as call:
        call.succeeded()


def leave(breaker: CircuitBreaker) -> None:
    with suppress(asyncio.CancelledError), breaker.call():
        raise asyncio.CancelledError


def say_nothing(breaker: CircuitBreaker) -> None:
    with breaker.call():
        pass


def half_open(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    assert breaker.refuses
    clock.now += PAUSE_S
    assert not breaker.refuses


def test_failures_in_a_row_open_it_and_a_success_between_begins_anew(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    succeed(breaker)
    fail(breaker, 2)
    assert not breaker.refuses
    with pytest.raises(OSError, match="away"), breaker.call():
        raise OSError("away")
    assert breaker.refuses


@pytest.mark.parametrize("neutral", [leave, say_nothing])
def test_what_says_nothing_changes_nothing(breaker: CircuitBreaker, clock: Clock, neutral) -> None:
    fail(breaker, 2)
    neutral(breaker)
    fail(breaker)
    assert breaker.refuses
    clock.now += PAUSE_S
    # Half-open, it leaves the next call to try, one alone.
    neutral(breaker)
    assert not breaker.refuses
    with suppress(OSError), breaker.call():
        assert breaker.refuses
        raise OSError("away")
    assert breaker.refuses


def test_one_call_tries_whether_it_works_again(breaker: CircuitBreaker, clock: Clock) -> None:
    half_open(breaker, clock)
    with breaker.call() as probe:
        assert breaker.refuses
        probe.begun()
        assert not breaker.refuses
    fail(breaker, 2)
    assert not breaker.refuses


def test_a_call_that_tries_in_vain_begins_the_pause_anew(breaker: CircuitBreaker, clock: Clock) -> None:
    half_open(breaker, clock)
    fail(breaker)
    clock.now += PAUSE_S - 1
    assert breaker.refuses
    clock.now += 1
    assert not breaker.refuses


def test_answers_that_begin_and_break_off_open_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 2, begun=True)
    fail(breaker, 2)
    assert not breaker.refuses
    fail(breaker, begun=True)
    assert breaker.refuses
    clock.now += PAUSE_S
    # That an answer begins shows nothing here: until one is whole, the next failure opens it again.
    fail(breaker, begun=True)
    assert breaker.refuses
    clock.now += PAUSE_S
    succeed(breaker)
    fail(breaker, 2, begun=True)
    assert not breaker.refuses


def test_answers_that_begin_show_that_others_can(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    with breaker.call() as call:
        call.begun()
        fail(breaker, 2)
        assert not breaker.refuses
        # Once: how it goes on shows nothing of them.
        call.begun()
        fail(breaker)
    assert breaker.refuses


@pytest.mark.parametrize("how", ["succeeded", "begun", "failed"])
def test_a_call_from_before_it_opened_counts_no_more(breaker: CircuitBreaker, clock: Clock, how: str) -> None:
    def end(call: Call) -> None:
        if how == "failed":
            raise OSError("away")
        getattr(call, how)()

    with suppress(OSError), breaker.call() as old:
        half_open(breaker, clock)
        with breaker.call():
            if how != "failed":
                end(old)
                assert breaker.refuses
        end(old)
    assert not breaker.refuses
