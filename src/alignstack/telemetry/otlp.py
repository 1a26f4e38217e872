"""Sends requests to an OpenTelemetry collector over OTLP/HTTP. Needs the `otel` extra: importing this without it is a
ConfigError that says so.

A thread of its own makes spans of finished traces: the request itself pays for one call. The usual `OTEL_…` variables
work (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER` …).
"""

import logging
import os
import queue
import threading

from alignstack.core.errors import ConfigError, Problem
from alignstack.core.events import ModelEvent
from alignstack.core.trace import Trace
from alignstack.telemetry import otel

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

WAITING = 2048
"""Finished requests that may wait for the thread; further ones are dropped and counted. Chosen by hand."""
SEND_S = 5.0
"""Seconds for one batch, so that a collector that hangs does not hold up a shutdown for long; chosen by hand."""

log = logging.getLogger(__name__)


class OpenTelemetry:
    """Sends what happened to an OTLP/HTTP endpoint, such as `http://127.0.0.1:4318`. To be made in the process that
    serves, after any fork."""

    def __init__(self, endpoint: str, *, version: str, content: bool = False, metrics: bool = True) -> None:
        self.content = content
        self.dropped = 0
        self._spans = _tracing(endpoint, version)
        self._tracer = self._spans.get_tracer("alignstack", version)
        self._measures = _Measures(endpoint, version) if metrics else None
        self._waiting: queue.Queue[otel.Finished | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="alignstack-otel", daemon=True)
        self._thread.start()

    def export(
        self,
        trace: Trace,
        *,
        route: str,
        status: str,
        upstream: otel.Upstream,
        stream: bool = False,
        first_token_s: float | None = None,
        traceparent: str = "",
        tracestate: str = "",
    ) -> None:
        """Hands over one finished request and returns at once. The two headers are those of the request, as they came:
        a valid `traceparent` becomes the parent."""
        headers = {"traceparent": traceparent, "tracestate": tracestate} if traceparent else {}
        finished = otel.Finished(
            trace=trace,
            route=route,
            status=status,
            upstream=upstream,
            stream=stream,
            first_token_s=first_token_s,
            headers=headers,
        )
        try:
            self._waiting.put_nowait(finished)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Sends what waits; takes a while when the endpoint hangs, up to a minute. Call it off the event loop."""
        self._waiting.put(None)
        self._thread.join()
        self._spans.shutdown()
        if self._measures:
            self._measures.close()

    def _work(self) -> None:
        while (finished := self._waiting.get()) is not None:
            try:
                self._request(finished)
                if self._measures:
                    self._measures.record(finished)
            except Exception:
                log.exception("trace %s could not be sent to OpenTelemetry", finished.trace.id)

    def _request(self, finished: otel.Finished) -> None:
        trace, start = finished.trace, _ns(finished.trace.started)
        parent = TraceContextTextMapPropagator().extract(finished.headers, Context())
        root = self._tracer.start_span(
            otel.REQUEST_SPAN,
            context=parent,
            kind=SpanKind.SERVER,
            start_time=start,
            attributes=otel.given(otel.root(finished)),
        )
        if finished.status == "unavailable":
            root.set_status(StatusCode.ERROR)
        within = set_span_in_context(root, Context())
        for event, at in otel.placed(trace) if root.is_recording() else ():
            span = self._child(event, finished, within, start + _ns(at))
            span.end(start + _ns(at + event.seconds))
        root.end(start + _ns(trace.outcome.seconds if trace.outcome else 0))

    def _child(self, event: otel.Child, finished: otel.Finished, within: Context, at: int) -> Span:
        name, kind, values = self._about(event, finished)
        span = self._tracer.start_span(name, context=within, kind=kind, start_time=at, attributes=values)
        if otel.ERROR_TYPE in values:
            span.set_status(StatusCode.ERROR)
        return span

    def _about(self, event: otel.Child, finished: otel.Finished) -> tuple[str, SpanKind, otel.Values]:
        if isinstance(event, ModelEvent):
            values = otel.generation(event, finished) | (otel.content(event) if self.content else {})
            kind = SpanKind.CLIENT if finished.upstream.address else SpanKind.INTERNAL
            return otel.clean(f"chat {event.model}"), kind, otel.given(values)
        values = otel.layer(event) | (otel.quote(event) if self.content else {})
        return otel.clean(f"{otel.LAYER_SPAN} {event.layer}"), SpanKind.INTERNAL, otel.given(values)


class _Measures:
    """The metrics of the conventions."""

    def __init__(self, endpoint: str, version: str) -> None:
        sender = OTLPMetricExporter(f"{endpoint.rstrip('/')}/v1/metrics", timeout=SEND_S)
        self._provider = MeterProvider([PeriodicExportingMetricReader(sender)], _resource(version))
        self._meter = self._provider.get_meter("alignstack", version)
        self._duration = self._histogram(otel.DURATION, "s", otel.SECONDS)
        self._first_token = self._histogram(otel.FIRST_TOKEN, "s", otel.SECONDS)
        self._tokens = self._histogram(otel.TOKEN_USAGE, "{token}", otel.TOKENS)

    def _histogram(self, name: str, unit: str, bounds: tuple[float, ...]) -> Histogram:
        return self._meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=bounds)

    def record(self, finished: otel.Finished) -> None:
        trace = finished.trace
        who = otel.given(otel.who(finished, trace.generation.model if trace.generation else None))
        if trace.outcome:
            failed = {otel.ERROR_TYPE: "unavailable"} if finished.status == "unavailable" else {}
            self._duration.record(trace.outcome.seconds, who | failed)
        if finished.first_token_s is not None:
            self._first_token.record(finished.first_token_s, who)
        for event in trace.events:
            if isinstance(event, ModelEvent):
                self._tokens.record(event.input_tokens, who | {otel.TOKEN_TYPE: "input"})
                self._tokens.record(event.output_tokens, who | {otel.TOKEN_TYPE: "output"})

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
