from __future__ import annotations

from stand_ins.report import report, sliced

from tandem.evaluation.figures.slices import ANSWER_RETRIEVED, ANSWER_SEEN, GOLD_RETRIEVED
from tandem.evaluation.report.explain import explanation


def test_where_the_lead_of_the_best_arm_comes_from() -> None:
    data = report("raft", n=100, base=0.02, tuned=0.2, raft=0.6)
    sliced(
        data,
        GOLD_RETRIEVED,
        yes=(80, {"base": 0.02, "tuned": 0.2, "raft": 0.7}),
        no=(20, {"base": 0.02, "tuned": 0.21, "raft": 0.1}),
    )
    counts, depends, without = explanation(data)
    assert "retrieved for 80 of 100 questions" in counts
    assert "There the order is raft 70 %, tuned 20 %, base 2 %" in counts
    assert "where it wasn't: tuned 21 %, raft 10 %, base 2 %" in counts
    assert "without the right document it loses 60 points" in depends
    assert "would reach 70 % instead of 60 %" in depends
    assert without == "Where retrieval fails, tuned, asked without any passages, does better than raft."


def test_where_every_document_is_found_its_passages_tell() -> None:
    data = report("raft", n=100, base=0.02, raft=0.6)
    both = {"yes": (80, {"base": 0.02, "raft": 0.7}), "no": (20, {"base": 0.02, "raft": 0.1})}
    sliced(data, ANSWER_RETRIEVED, **both)
    counts, depends = explanation(data)
    assert counts.startswith(
        "A right answer stood in a retrieved passage for 80 of 100 questions. There the order is raft"
    )
    assert "without the right passage it loses 60 points" in depends


def test_an_arm_that_does_not_depend_on_retrieval() -> None:
    data = report("tuned", n=100, rag=0.1, tuned=0.6)
    sliced(data, GOLD_RETRIEVED, yes=(80, {"rag": 0.1, "tuned": 0.6}), no=(20, {"rag": 0.0, "tuned": 0.59}))
    assert "tuned hardly depends on the right document" in explanation(data)[1]
    assert len(explanation(data)) == 2


def test_what_was_trained_may_lean_on_answers_that_it_knows() -> None:
    data = report("tuned", n=100, base=0.1, tuned=0.6)
    data["arms"]["tuned"]["cost"]["train"] = 1.0
    sliced(data, ANSWER_SEEN, yes=(50, {"base": 0.1, "tuned": 0.9}), no=(50, {"base": 0.1, "tuned": 0.3}))
    (said,) = explanation(data)
    assert "tuned from 90 % to 30 %" in said
    data["slices"][ANSWER_SEEN]["no"]["tuned"]["metrics"]["em"] = 0.89
    assert explanation(data) == []


def test_without_slices_nothing_is_explained() -> None:
    assert explanation(report("raft", base=0.1, raft=0.5)) == []
