"""cluster/observability/grafana: dashboards that Grafana can show, of queries that Prometheus takes."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from stand_ins.prometheus import DASHBOARDS, FOLDER, missing, panels, promtool

each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def test_there_is_one_of_the_endpoint_and_one_of_the_rest() -> None:
    assert [path.stem for path in DASHBOARDS] == ["endpoint", "jobs"]
    assert len({read(path)["uid"] for path in DASHBOARDS}) == len(DASHBOARDS)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@each_dashboard
def test_prometheus_takes_every_query(path: Path, tmp_path: Path) -> None:
    asked = [query for queries in panels(path).values() for query in queries]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(tmp_path / "rules.yaml"))


@each_dashboard
def test_panels_have_a_place_of_their_own_and_say_what_they_show(path: Path) -> None:
    board = read(path)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    for one, other in combinations([panel["gridPos"] for panel in board["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


@each_dashboard
def test_every_variable_that_is_used_is_there_and_the_other_way_round(path: Path) -> None:
    board = read(path)
    known = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board["panels"]) + json.dumps(board["templating"])))
    assert used == known


def test_grafana_is_told_where_they_are_and_where_prometheus_listens() -> None:
    provisioning = FOLDER / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tandem.yaml").read_text())["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "$TANDEM_DASHBOARDS")
    (source,) = yaml.safe_load((provisioning / "datasources" / "tandem.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    listens = re.search(r"--web\.listen-address=(\S+)", (FOLDER / "prometheus.yaml").read_text())
    assert listens
    assert source["url"] == f"http://{listens[1]}"
