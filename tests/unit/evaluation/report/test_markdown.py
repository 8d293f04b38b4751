from __future__ import annotations

from stand_ins.report import report, sliced

from tandem.evaluation.report.markdown import markdown


def test_tables_survive_any_name() -> None:
    data = report("raft", n=80, p=0.0001, base=0.1, raft=0.6)
    sliced(data, "a|b", **{"<x>": (80, {"base": 0.1, "raft": 0.6})})
    data["notes"] = ["1 | 2\n# no heading"]
    page = markdown(data)
    assert "| \\<x\\> | 80 |" in page
    assert "## EM by a\\|b" in page
    assert "- 1 \\| 2 # no heading" in page
    widths = {line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("| raft − base")}
    assert widths == {12}


def test_the_answer_stands_first() -> None:
    lines = markdown(report("raft", p=0.0001, base=0.1, raft=0.6)).splitlines()
    assert lines[2].startswith("**Choose raft.** raft wins: it answers 60 % of 4 questions exactly right")
    assert lines[4].startswith("How sure: very sure.")


def test_one_arm_alone() -> None:
    data = report(None, kind="no_contest", base=0.1)
    assert "Only one candidate: nothing to compare." in markdown(data)
