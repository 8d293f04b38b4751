"""Where spans go: `RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH=tandem.serving.tracing:exporters` has Ray Serve ask here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def exporters() -> list[Any]:
    """Span processors that send to the collector of OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT` …)."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Iterator[None]:
    """A span under the current one; nothing where tracing is off."""
    from opentelemetry import trace

    with trace.get_tracer("tandem").start_as_current_span(name, attributes=attributes):
        yield
