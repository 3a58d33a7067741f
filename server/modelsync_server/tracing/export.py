"""Hands spans to a collector by OTLP over HTTP: OpenTelemetry's own exporter and settings (OTEL_EXPORTER_OTLP_*)."""

from __future__ import annotations

from collections.abc import Iterable

from modelsync_protocol.errors import LocalError, UnreachableError
from modelsync_server.tracing.spans import Place, Span

_MILLION = 1_000_000


def export(spans: Iterable[Span]) -> None:
    """Send them; UnreachableError if the collector does not take them, LocalError without OpenTelemetry."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
    except ImportError:
        raise LocalError("traces need OpenTelemetry: pip install 'modelsync-server[otel]'.") from None

    def context(place: Place) -> SpanContext:
        return SpanContext(int(place.trace, 16), int(place.span, 16), True, TraceFlags(TraceFlags.SAMPLED))

    ready = [
        ReadableSpan(
            name=span.name,
            context=context(span.place),
            parent=None if span.parent is None else context(span.parent),
            resource=Resource({"service.name": span.service}),
            attributes=dict(span.attributes),
            kind=SpanKind.INTERNAL,
            status=Status(StatusCode.UNSET) if span.failed is None else Status(StatusCode.ERROR, span.failed),
            start_time=span.begin * _MILLION,
            end_time=max(span.begin, span.end) * _MILLION,
        )
        for span in spans
    ]
    exporter = OTLPSpanExporter()
    try:
        taken = exporter.export(ready) is SpanExportResult.SUCCESS
    except OSError:
        taken = False
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
    if not taken:
        raise UnreachableError("the collector does not take the trace: see OTEL_EXPORTER_OTLP_ENDPOINT.")
