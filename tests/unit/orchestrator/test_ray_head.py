from __future__ import annotations

import pytest

from tandem.orchestrator.ray_head import tracing_environment

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
