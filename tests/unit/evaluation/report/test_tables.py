from __future__ import annotations

from stand_ins.report import arm, pair, report, sliced

from tandem.evaluation.report import tables


def test_a_row_for_each_arm() -> None:
    data = report("raft", n=80, base=0.1, oracle=0.9, raft=0.6)
    rows = tables.summary_rows(data)
    assert [row[0] for row in rows] == ["raft", "base", "oracle (ceiling)"]
    header = tables.summary_header(data)
    assert all(len(row) == len(header) for row in rows)
    raft = dict(zip(header, rows[0], strict=True))
    assert raft | {"EM": "0.60", "95 %": "0.50 to 0.70", "BLEU": "12.3", "recall@k": "0.80", "words": "3.2"} == raft
    assert raft | {"p50 ms": "1,234", "p95 ms": "–", "per 1,000": "0.50", "failed": "0 of 80"} == raft
    assert dict(zip(header, rows[1], strict=True))["recall@k"] == "–"


def test_a_pair_is_told_from_the_better_arm() -> None:
    (row,) = tables.pair_rows(report("raft", p=0.0001, base=0.1, raft=0.6))
    assert row == [
        "raft − base", "EM", "+0.50", "+0.40 to +0.60", "+0.42 to +0.58", "3 : 1", "+0.50", "< 0.001", "< 0.001",
        "0.34", "raft is better",
    ]  # fmt: skip
    header, rows = tables.pairs_on(report(None, p=0.3, base=0.1, raft=0.6), "em")
    assert (len(header), rows[0][-1]) == (len(rows[0]), "can't tell")


def test_a_pair_may_be_shown_to_be_equal() -> None:
    data = report(None, base=0.5, raft=0.51)
    data["pairs"] = [pair("base", "raft", -0.01, 0.8, ci90=[-0.03, 0.02])]
    assert tables.pair_rows(data)[0][-1] == "equal within 5 points"


def test_break_even_in_words() -> None:
    data = report("raft", rag=0.1, raft=0.6)
    data["break_even"] = [{"arm": "raft", "against": "rag", "questions": None, "questions_per_correct": 1}]
    assert tables.break_even_rows(data) == [["raft", "rag", "never", "the first question"]]


def test_the_best_candidate_of_each_measure_stands_out() -> None:
    data = report("raft", base=0.1, raft=0.6, oracle=0.9)
    lines = {line.head: line for line in tables.measure_lines(data)}
    assert [cell.best for cell in lines["EM"].cells] == [True, False, False], "no ceiling, however high"
    assert not any(cell.best for cell in lines["BLEU"].cells), "all alike"
    assert not any(cell.best for cell in lines["words"].cells), "more words aren't better"
    assert lines["EM"].cells[0].small == "0.50 to 0.70"
    data["arms"]["base"] = arm(0.1, latency_ms={"p50": 100.0, "p95": 200.0})
    costs = {line.head: line for line in tables.cost_lines(data)}
    assert [cell.best for cell in costs["latency, p50 ms"].cells] == [False, True, False]
    assert "GPU-seconds" not in costs


def test_a_heat_map_is_as_dark_as_its_figures_differ() -> None:
    data = report("raft", n=100, base=0.1, raft=0.6)
    sliced(data, "kind", a=(60, {"base": 0.1, "raft": 0.9}), b=(40, {"base": 0.1, "raft": 0.2}))
    sliced(
        data, "gold document retrieved", no=(20, {"base": 0.50, "raft": 0.52}), yes=(80, {"base": 0.5, "raft": 0.54})
    )
    gold, kind = tables.heat_maps(data)
    assert (gold.column, [value for value, _, _ in gold.rows]) == ("gold document retrieved", ["yes", "no"])
    assert kind.rows[0][:2] == ("a", 60)
    assert [cell[3] for cell in kind.rows[0][2]] == [1.0, 0.0]
    # Differences of a few points aren't made to look like more.
    shades = [cell[3] for _, _, cells in gold.rows for cell in cells]
    assert max(shades) - min(shades) < 0.25
