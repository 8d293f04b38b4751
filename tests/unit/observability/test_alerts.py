"""cluster/observability/alerts.yaml, as Prometheus judges it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from stand_ins.prometheus import ALERTS, alerts, missing, promtool

CASES = Path(__file__).with_name("alerts.yaml")
ON_CALL = Path(__file__).parents[3] / "docs" / "on-call.md"

needs_promtool = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(ALERTS))


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(CASES))


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(alerts())
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(alerts())


def test_each_alert_says_how_urgent_it_is_what_is_wrong_and_where_to_read_on() -> None:
    headings = re.findall(r"^#+ (.+)$", ON_CALL.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert re.fullmatch(r"[A-Z{].*\.", rule["annotations"]["summary"]), name
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (page, anchor in anchors) == ("docs/on-call.md", True), name


def test_the_page_for_people_on_call_has_a_row_for_each_alert_and_for_no_other() -> None:
    rows = re.findall(r"^\| `(Tandem\w+)` \| (critical|warning) \|", ON_CALL.read_text(), re.MULTILINE)
    assert dict(rows) == {name: rule["labels"]["severity"] for name, rule in alerts().items()}
    assert len(rows) == len(alerts())
