from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from stand_ins.line import RULES, holding, make_room, waiting

from tandem.orchestrator.scheduler import Holding, Plan, Rules, Waiting, schedule

NOW = 10_000.0
FOUR = make_room({"CPU": 4.0})
QUOTA = replace(RULES, quotas={"x": {"CPU": 8.0}, "*": {"CPU": 2.0}})


def look(*line: Waiting, beside: list[Holding] | None = None, room: object = FOUR, rules: Rules = RULES) -> Plan:
    return schedule(line, beside or [], room, rules, NOW)  # type: ignore[arg-type]


def test_the_line_goes_by_priority_and_then_by_age() -> None:
    plan = look(waiting("old", 2), waiting("urgent", 2, priority=1), waiting("young", 2))
    assert plan.starts == ["urgent", "old"]
    assert plan.waits == {"young": "needs 2 CPUs, 0 are free; 1st in line"}


def test_each_is_told_its_place() -> None:
    plan = look(*(waiting(f"j{number}", 4) for number in range(24)))
    said = [plan.waits[f"j{number}"].rsplit("; ", 1)[1] for number in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23)]
    assert said == [
        f"{place} in line" for place in ("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd")
    ]


def test_the_first_in_line_may_be_passed_for_some_minutes_and_then_its_room_is_kept() -> None:
    beside = [holding("a", 2)]
    large, small = waiting("large", 3), waiting("small", 1)
    plan = look(large, small, beside=beside)
    assert (plan.starts, plan.firsts) == (["small"], ["large"])
    plan = look(replace(large, first_at=NOW - 599), small, beside=beside)
    assert (plan.starts, plan.firsts) == (["small"], [])
    plan = look(replace(large, first_at=NOW - 600), small, waiting("other", 2), beside=beside)
    assert plan.starts == []
    assert plan.waits == {
        "large": "needs 3 CPUs, 2 are free; 1st in line",
        "small": "needs 1 CPU, what is free is kept for large; 2nd in line",
        "other": "needs 2 CPUs, what is free is kept for large; 3rd in line",
    }


def test_what_the_first_in_line_does_not_need_is_for_others() -> None:
    room = make_room({"CPU": 8.0, "GPU": 4.0})
    beside = [holding("a", {"CPU": 2.0, "GPU": 2.0})]
    first = waiting("first", {"CPU": 4.0, "GPU": 4.0}, first_at=0.0)
    plan = look(
        first, waiting("a", 2), waiting("b", 1), waiting("c", {"CPU": 1.0, "GPU": 1.0}), beside=beside, room=room
    )
    # Six CPUs are free and four of them are kept; of the GPUs there are too few already.
    assert plan.starts == ["a"]
    assert plan.waits["first"].startswith("needs 4 GPUs, 2 are free")


def test_whoever_passes_must_not_grow_into_what_is_kept() -> None:
    room = make_room({"CPU": 8.0, "GPU": 1.0})
    beside = [holding("a", {"CPU": 1.0, "GPU": 1.0})]
    first = waiting("first", {"CPU": 4.0, "GPU": 1.0}, first_at=0.0)
    assert look(first, waiting("elastic", 1, times=4), beside=beside, room=room).starts == []
    assert look(first, waiting("elastic", 1, times=3), beside=beside, room=room).starts == ["elastic"]


def test_a_job_alone_may_have_more_than_jobs_share() -> None:
    # A core for jobs and two more for an endpoint: two workers then take turns, which beats never starting.
    room = make_room({"CPU": 3.0}, shared=1.0)
    assert look(waiting("a", 2), waiting("b", 1), room=room).starts == ["a"]
    assert look(waiting("a", 2, first_at=0.0), waiting("b", 1), beside=[holding("c")], room=room).starts == []


def test_a_quota_is_never_exceeded_and_says_so() -> None:
    room = make_room({"CPU": 64.0})
    beside = [holding("a", 6, project="x"), holding("b", 9)]
    plan = look(waiting("c", 4, project="x"), waiting("d", 2, project="x"), beside=beside, room=room, rules=QUOTA)
    assert (plan.starts, plan.firsts) == (["d"], ["c"])
    assert plan.waits == {"c": "needs 4 CPUs, over the quota of project x (6 of 8 CPUs held); 1st in line"}
    # Elastic workers count with all that they may take; each project that isn't named has the same.
    plan = look(waiting("e", 1, times=3, project="y"), waiting("f", 2, project="z"), room=room, rules=QUOTA)
    assert plan.starts == ["f"]
    assert plan.waits == {"e": "needs 3 CPUs, the quota of project y is 2 CPUs: it waits for that to change"}
    assert look(waiting("g", {"GPU": 2.0}, project="y"), room=make_room({"GPU": 2.0}), rules=QUOTA).starts == ["g"]


def test_a_quota_has_a_line_of_its_own_and_blocks_nobody_else() -> None:
    room = make_room({"CPU": 64.0})
    beside = [holding("a", 6, project="x")]
    first = waiting("first", 4, project="x", first_at=0.0)
    later = waiting("later", 2, project="x")
    plan = look(first, later, waiting("other", 2, project="y"), beside=beside, room=room, rules=QUOTA)
    assert plan.starts == ["other"]
    assert (
        plan.waits["later"] == "needs 2 CPUs, over the quota of project x (what is left is kept for first); 2nd in line"
    )


def test_what_is_too_large_stands_in_nobodys_way() -> None:
    plan = look(waiting("large", 5, priority=9), waiting("b", 2), waiting("c", 5, judged=False))
    assert plan.starts == ["b"]
    assert plan.waits == {"large": "needs 5 CPUs, the cluster has 4 CPUs: it waits for that to change"}
    assert plan.refused == {"c": "needs 5 CPUs, the cluster has 4 CPUs"}
    # Four in all, but nowhere four together: it would wait on a machine, and nobody is sent away for it.
    halves = make_room({"CPU": 2.0}, {"CPU": 2.0})
    plan = look(waiting("wide", 4, priority=9), beside=[holding("a", 1, preemptible=True)], room=halves)
    assert (plan.preempts, plan.firsts) == ([], [])


@pytest.mark.parametrize(
    ("beside", "needs", "victims"),
    [
        # The lowest priority, and of that the youngest; no more than make room.
        ({"a": (2, -1, 5), "b": (1, -2, 1), "c": (1, -2, 2)}, 1, ["c"]),
        ({"a": (2, -1, 5), "b": (1, -2, 1), "c": (1, -2, 2)}, 2, ["c", "b"]),
        # Who needn't go after all stays, the one of higher priority first.
        ({"a": (3, -1, 5), "b": (1, -2, 1)}, 3, ["a"]),
        ({"a": (2, -1, 5), "b": (2, -2, 1)}, 4, ["b", "a"]),
    ],
)
def test_the_least_that_makes_room_steps_aside(
    beside: Mapping[str, tuple[int, int, float]], needs: int, victims: list[str]
) -> None:
    jobs = [
        holding(name, cpus, priority=priority, started_at=at, preemptible=True)
        for name, (cpus, priority, at) in beside.items()
    ]
    plan = look(waiting("urgent", needs), beside=jobs)
    assert [victim for victim, _ in plan.preempts] == victims
    assert {other for _, other in plan.preempts} == {"urgent"}


@pytest.mark.parametrize(
    "kept",
    [
        {"priority": 1},
        {"priority": 2},
        {"preemptible": False},
        {"held": {"CPU": 1.0}},  # its end would make too little room, since the other one stays
    ],
)
def test_nobody_steps_aside_for_an_equal_nor_for_one_that_would_not_fit_afterwards(kept: dict[str, object]) -> None:
    low = replace(holding("low", 2, preemptible=True), **kept)  # type: ignore[arg-type]
    plan = look(waiting("urgent", 3, priority=1), beside=[low, holding("other", 2)])
    assert plan.preempts == []


def test_nobody_more_is_asked_while_enough_are_leaving_and_what_they_free_is_kept() -> None:
    beside = [holding("a", 2, leaving=True, preemptible=True), holding("b", 1, preemptible=True)]
    plan = look(waiting("urgent", 3, priority=1), waiting("small", 1), beside=beside)
    assert (plan.preempts, plan.starts) == ([], [])
    assert plan.waits["urgent"] == "needs 3 CPUs, 1 is free; 1st in line; a must end first, and was asked to"
    assert plan.waits["small"] == "needs 1 CPU, what is free is kept for urgent; 2nd in line"


def test_nobody_steps_aside_for_a_job_over_its_quota() -> None:
    low = holding("low", 4, preemptible=True, project="y")
    rules = replace(RULES, quotas={"x": {"CPU": 2.0}})
    beside = [low, holding("mine", 2, project="x")]
    plan = look(waiting("urgent", 2, priority=1, project="x"), beside=beside, room=make_room({"CPU": 6.0}), rules=rules)
    assert plan.preempts == []
    assert "over the quota of project x (2 of 2 CPUs held)" in plan.waits["urgent"]


def test_gpus_of_a_type_are_no_others() -> None:
    room = make_room({"CPU": 8.0, "GPU": 2.0, "GPU:A100": 2.0}, {"CPU": 8.0, "GPU": 2.0, "GPU:L4": 2.0})
    asked = {"CPU": 1.0, "GPU": 2.0, "GPU:A100": 2.0}
    plan = look(waiting("a", asked), waiting("b", asked), waiting("c", {"CPU": 1.0, "GPU": 2.0}), room=room)
    assert plan.starts == ["a", "c"]
    assert plan.waits["b"] == "needs 2 GPUs of type A100, 0 are free; 1st in line"
