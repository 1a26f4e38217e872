"""Makes spans and metrics of finished requests with the OpenTelemetry SDK, which sends them in batches, OTLP over HTTP.

Needs the `otel` extra: importing this without it is a ConfigError that says so. The usual `OTEL_…` variables work
(`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER` …).
"""

import os

from alignstack.core.errors import ConfigError, Problem
from alignstack.core.events import ModelEvent
from alignstack.telemetry import conventions

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.metrics import Histogram
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as missing:
    what = f"OpenTelemetry needs {missing.name!r}; try: pip install 'alignstack[otel]'"
    raise ConfigError([Problem(where="telemetry", what=what)]) from None

SEND_S = 5.0
"""Seconds for one batch, so that a collector that hangs does not hold up a shutdown for long; chosen by hand."""


class Sender:
    """Spans and metrics of one process."""

    def __init__(self, endpoint: str, *, version: str, content: bool, metrics: bool) -> None:
        self.content = content
        self._spans = _tracing(endpoint, version)
        self._tracer = self._spans.get_tracer("alignstack", version)
        self._measures = _Measures(endpoint, version) if metrics else None

    def send(self, finished: conventions.Finished) -> None:
        self._request(finished)
        if self._measures:
            self._measures.record(finished)

    def close(self) -> None:
        self._spans.shutdown()
        if self._measures:
            self._measures.close()

    def _request(self, finished: conventions.Finished) -> None:
        trace, start = finished.trace, _ns(finished.trace.started)
        parent = TraceContextTextMapPropagator().extract(finished.headers, Context())
        root = self._tracer.start_span(
            conventions.REQUEST_SPAN,
            context=parent,
            kind=SpanKind.SERVER,
            start_time=start,
            attributes=conventions.given(conventions.root(finished)),
        )
        if finished.status == "unavailable":
            root.set_status(StatusCode.ERROR)
        within = set_span_in_context(root, Context())
        for event, at in conventions.placed(trace) if root.is_recording() else ():
            span = self._child(event, finished, within, start + _ns(at))
            span.end(start + _ns(at + event.seconds))
        root.end(start + _ns(trace.outcome.seconds if trace.outcome else 0))

    def _child(self, event: conventions.Child, finished: conventions.Finished, within: Context, at: int) -> Span:
        name, kind, values = self._about(event, finished)
        span = self._tracer.start_span(name, context=within, kind=kind, start_time=at, attributes=values)
        if conventions.ERROR_TYPE in values:
            span.set_status(StatusCode.ERROR)
        return span

    def _about(
        self, event: conventions.Child, finished: conventions.Finished
    ) -> tuple[str, SpanKind, conventions.Values]:
        if isinstance(event, ModelEvent):
            values = conventions.generation(event, finished) | (conventions.content(event) if self.content else {})
            kind = SpanKind.CLIENT if finished.upstream.address else SpanKind.INTERNAL
            return conventions.clean(f"chat {event.model}"), kind, conventions.given(values)
        values = conventions.layer(event) | (conventions.quote(event) if self.content else {})
        return (
            conventions.clean(f"{conventions.LAYER_SPAN} {event.layer}"),
            SpanKind.INTERNAL,
            conventions.given(values),
        )


class _Measures:
    """The metrics of the conventions."""

    def __init__(self, endpoint: str, version: str) -> None:
        sender = OTLPMetricExporter(f"{endpoint.rstrip('/')}/v1/metrics", timeout=SEND_S)
        self._provider = MeterProvider([PeriodicExportingMetricReader(sender)], _resource(version))
        self._meter = self._provider.get_meter("alignstack", version)
        self._duration = self._histogram(conventions.DURATION, "s", conventions.SECONDS)
        self._first_token = self._histogram(conventions.FIRST_TOKEN, "s", conventions.SECONDS)
        self._tokens = self._histogram(conventions.TOKEN_USAGE, "{token}", conventions.TOKENS)

    def _histogram(self, name: str, unit: str, bounds: tuple[float, ...]) -> Histogram:
        return self._meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=bounds)

    def record(self, finished: conventions.Finished) -> None:
        trace = finished.trace
        who = conventions.given(conventions.who(finished, trace.generation.model if trace.generation else None))
        if trace.outcome:
            failed = {conventions.ERROR_TYPE: "unavailable"} if finished.status == "unavailable" else {}
            self._duration.record(trace.outcome.seconds, who | failed)
        if finished.first_token_s is not None:
            self._first_token.record(finished.first_token_s, who)
        for event in trace.events:
            if isinstance(event, ModelEvent):
                self._tokens.record(event.input_tokens, who | {conventions.TOKEN_TYPE: "input"})
                self._tokens.record(event.output_tokens, who | {conventions.TOKEN_TYPE: "output"})

    def close(self) -> None:
        self._provider.shutdown()


def _tracing(endpoint: str, version: str) -> TracerProvider:
    """Every request is sampled unless `OTEL_TRACES_SAMPLER` says otherwise: a client's `traceparent` does not decide
    whether it is seen."""
    sampler = None if "OTEL_TRACES_SAMPLER" in os.environ else ALWAYS_ON
    provider = TracerProvider(sampler=sampler, resource=_resource(version), shutdown_on_exit=False)
    sender = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=SEND_S)
    provider.add_span_processor(BatchSpanProcessor(sender))
    return provider


def _resource(version: str) -> Resource:
    name = os.environ.get("OTEL_SERVICE_NAME") or "alignstack"
    return Resource.create({"service.name": name, "service.version": version})


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
