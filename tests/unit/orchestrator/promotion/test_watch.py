"""What is seen of an endpoint in which a version was promoted, and what follows from it."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from tandem.orchestrator.deploying.app_status import AppStatus, Verdict
from tandem.orchestrator.promotion.watch import Gone, TakeBack, Up, Wait, look
from tandem.specs.rag import RagSpec

FACTS = {"model": "tuned", "version": "v-2", "share": None, "deployed_at": 5.0}


def spec(version: str, **fields: Any) -> RagSpec:
    adapter = {"name": "tuned", "uri": f"artifact:tuned@{version}"}
    least = {"kind": "rag", "name": "ask", "model": "m", "retriever": {"collection": "c"}, "adapters": [adapter]}
    return RagSpec.model_validate({**least, **fields})


def status(verdict: Verdict, state: str = "RUNNING", at: float = 6.0) -> AppStatus:
    return AppStatus("rag", state, verdict, "", "http://e", at, {})


@pytest.mark.parametrize(
    ("seen", "late", "then"),
    [
        (status("running"), False, Up()),
        (status("running"), True, Up()),
        # As it was before.
        (status("running", at=5.0), False, Wait("RUNNING")),
        (status("running", at=5.0), True, TakeBack("not up in time: RUNNING")),
        (status("waiting", "DEPLOYING"), False, Wait("DEPLOYING")),
        (status("waiting", "DEPLOYING"), True, TakeBack("not up in time: DEPLOYING")),
        (status("failed", "DEPLOYING"), False, TakeBack("DEPLOYING")),
        (status("failed", "DEPLOY_FAILED"), False, TakeBack("DEPLOY_FAILED")),
        (status("failed", "DEPLOY_FAILED", at=5.0), False, Wait("DEPLOY_FAILED")),
        (status("failed", "UNHEALTHY"), False, Wait("UNHEALTHY")),
        (status("failed", "UNHEALTHY"), True, TakeBack("not up in time: UNHEALTHY")),
    ],
)
def test_it_comes_up_or_is_taken_back(seen: AppStatus, late: bool, then: object) -> None:
    assert look(FACTS, spec("v-2"), seen, late=late) == then


@pytest.mark.parametrize("verdict", get_args(Verdict))
@pytest.mark.parametrize("late", [False, True])
def test_what_is_somebody_elses_by_now_is_left_alone(verdict: Verdict, late: bool) -> None:
    assert isinstance(look(FACTS, spec("v-1"), status(verdict), late=late), Gone)
    assert isinstance(look(FACTS, spec("v-2", adapters=[]), status(verdict), late=late), Gone)
    assert isinstance(look(FACTS, None, None, late=late), Gone)


def test_a_canary() -> None:
    facts = {**FACTS, "share": 0.1}
    adapters = [
        {"name": name, "uri": f"artifact:tuned@{id}"} for name, id in (("tuned", "v-1"), ("tuned-canary", "v-2"))
    ]
    tried = spec("v-1", adapters=adapters, canary={"model": "tuned-canary", "share": 0.1})
    assert look(facts, tried, status("running"), late=False) == Up()
    assert isinstance(look(facts, spec("v-2"), status("running"), late=False), Gone)
