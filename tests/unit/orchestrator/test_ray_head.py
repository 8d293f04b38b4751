from __future__ import annotations

from pathlib import Path

import pytest

from tandem.orchestrator.ray_head import HAPROXY_PORTS, haproxy_environment, tracing_environment

EXPORTERS = "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH"


@pytest.mark.parametrize(
    ("environment", "added"),
    [
        ({}, {}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, {EXPORTERS: "tandem.serving.tracing:exporters"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, {EXPORTERS: "tandem.serving.tracing:exporters"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", EXPORTERS: "mine:exporters"}, {}),
    ],
)
def test_spans_are_made_where_a_collector_is_named(environment: dict[str, str], added: dict[str, str]) -> None:
    assert tracing_environment(environment) == added


def test_two_clusters_of_one_machine_share_no_port_and_no_file() -> None:
    one, other = (haproxy_environment(Path(f"/tmp/{name}")) for name in ("a", "b"))
    assert len({environment[name] for environment in (one, other) for name in HAPROXY_PORTS}) == 2 * len(HAPROXY_PORTS)
    own = {name for name in one if name.startswith("RAY_SERVE_HAPROXY_")} - {"RAY_SERVE_HAPROXY_BINARY_PATH"}
    assert not [name for name in own if one[name] == other[name]]
