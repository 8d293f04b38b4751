"""Alerts and dashboards ask for nothing that nobody exports, and by no label that it doesn't have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import ray.serve.metrics
import ray.util.metrics
from prometheus_client import CollectorRegistry
from stand_ins.prometheus import DASHBOARDS, alerts, metrics_in, panels
from stand_ins.world import World, make_cluster

from tandem.orchestrator.records import Records
from tandem.server.metrics import ServerCollector
from tandem.serving.signals import Meter, QuestionMeter
from tandem.training.gauges import Gauges

ON_CALL = Path(__file__).parents[3] / "docs" / "on-call.md"
# Ray's own, as a cluster of the version that we pin exports them; tests/e2e/test_story.py looks for them there.
RAYS: dict[str, set[str]] = {
    "ray_node_cpu_utilization": {"ip"},
    "ray_node_disk_utilization_percentage": {"ip"},
    "ray_node_gpus_utilization": {"ip", "GpuIndex"},
    "ray_node_mem_total": {"ip"},
    "ray_node_mem_used": {"ip"},
    "ray_serve_application_status": {"application"},
    "ray_serve_autoscaling_target_replicas": {"application", "deployment"},
    "ray_serve_deployment_queued_queries": {"application", "deployment"},
    "ray_serve_deployment_replica_healthy": {"application", "deployment", "replica"},
    "ray_serve_proxy_status": {"node_ip_address"},
    "ray_serve_replica_processing_queries": {"application", "deployment", "replica"},
}
OF_PROMETHEUS = {"le", "job", "instance"}
OF_SERVE = {"application", "deployment", "replica"}  # what it adds to the metrics of a replica


class Exported:
    """Stands for Ray's metrics, and keeps their names as its exporter writes them."""

    names: dict[str, set[str]]

    def __init__(self, suffixes: tuple[str, ...], name: str, tag_keys: tuple[str, ...], more: set[str]) -> None:
        for suffix in suffixes:
            self.names[f"ray_{name}{suffix}"] = {*tag_keys, *more}

    def set_default_tags(self, tags: dict[str, str]) -> None:
        """They are among its keys."""


def kind(*suffixes: str, more: set[str] = OF_SERVE) -> Any:
    def made(name: str, description: str, *, tag_keys: tuple[str, ...], boundaries: list[float] | None = None) -> Any:
        assert description
        return Exported(suffixes, name, tag_keys, more)

    return made


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """All that we export, and what we use of Ray's: labels by name."""
    names = dict(RAYS)
    monkeypatch.setattr(Exported, "names", names, raising=False)
    for module in (ray.util.metrics, ray.serve.metrics):
        monkeypatch.setattr(module, "Gauge", kind(""))
        monkeypatch.setattr(module, "Counter", kind("_total"))
        monkeypatch.setattr(module, "Histogram", kind("_bucket", "_count", "_sum"))
    Meter("app")
    QuestionMeter()
    Gauges("job")
    return names | server_metrics(tmp_path)


def server_metrics(folder: Path) -> dict[str, set[str]]:
    cluster = make_cluster(folder)
    world = World(cluster, Records(cluster.database_url))
    world.orchestrator.step()
    registry = CollectorRegistry()
    registry.register(ServerCollector(world.records, world.orchestrator))
    names: dict[str, set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    world.records.close()
    return names


def expressions() -> dict[str, str]:
    found = {name: rule["expr"] for name, rule in alerts().items()}
    for path in DASHBOARDS:
        for title, queries in panels(path).items():
            found |= {f"{path.stem}, {title}, {number}": query for number, query in enumerate(queries)}
    return found


def test_every_metric_that_is_asked_for_is_exported(exported: dict[str, set[str]]) -> None:
    asked = {where: metrics_in(expression) for where, expression in expressions().items()}
    assert {where: names - exported.keys() for where, names in asked.items() if names - exported.keys()} == {}
    assert all(names or where in ("TandemServerDown", "TandemRayMetricsMissing") for where, names in asked.items())


def test_every_label_that_is_asked_for_is_one_of_the_metrics(exported: dict[str, set[str]]) -> None:
    for where, expression in expressions().items():
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expression))
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            labels |= {label.strip() for label in group.split(",")}
        known = OF_PROMETHEUS.union(*(exported[name] for name in metrics_in(expression)))
        assert labels <= known, where


def test_every_one_of_rays_that_is_listed_is_used() -> None:
    used = set().union(*map(metrics_in, expressions().values()))
    assert RAYS.keys() <= used


def test_the_page_for_people_on_call_knows_every_metric_of_the_server(tmp_path: Path) -> None:
    text = ON_CALL.read_text()
    names = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in server_metrics(tmp_path)}
    assert {name for name in names if f"`{name}`" not in text and f"`{name}_total`" not in text} == set()
