from __future__ import annotations

import json

from stand_ins.comparisons import first_of, simulate

from tandem.evaluation.report.browse import page_data, script_json


def test_the_page_is_bounded_and_a_passage_is_there_once() -> None:
    inputs, runs = simulate(100, arms=["base", "rag", "raft", "oracle"])
    arms = list(runs)
    data = page_data(first_of(runs), arms, inputs.slices, shown=90)
    assert [item["id"] for item in data["items"]] == [f"q{number:04}" for number in range(90)]
    shown = [number for item in data["items"] for found in item["contexts"].values() for number, _ in found]
    texts = [tuple(passage) for passage in data["passages"]]
    assert len(texts) == len(set(texts)) < len(shown) / 2
    # Each answer was given on just these passages.
    for place, item in enumerate(data["items"]):
        for arm, kind in (("rag", "retrieved"), ("raft", "retrieved"), ("oracle", "gold")):
            given = [(p.source, p.section, p.text) for p in runs[arm][0][place].passages]
            assert [texts[number] for number, _ in item["contexts"][kind]] == given


def test_data_in_a_script_holds_no_tag() -> None:
    data = {"a": "</script><!-- & \u2028", "b": [1, None]}
    text = script_json(data)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == data
