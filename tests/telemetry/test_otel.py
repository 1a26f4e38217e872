import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from alignstack.core.events import Event, LayerError, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.messages import Message, ToolCall, user
from alignstack.core.trace import Trace
from alignstack.core.verdict import Verdict
from alignstack.telemetry import otlp
from alignstack.telemetry.conventions import Upstream
from alignstack.telemetry.otel import WAITING, Spans

HERE = Upstream(provider="openai", address="127.0.0.1", port=8000)
SECRET = "the client's own words"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: list[Metric] = []
        self.resource: dict[str, Any] = {}
        self.raw = b""
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        self.raw += body
        if request.path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = plain(resource.resource)
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        else:
            for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.metrics += [metric for scope in measured.scope_metrics for metric in scope.metrics]
        return web.Response(content_type="application/x-protobuf")

    def span(self, name: str) -> Span:
        [found] = [span for span in self.spans if span.name == name]
        return found

    def metric(self, name: str) -> Metric:
        [found] = [metric for metric in self.metrics if metric.name == name]
        return found


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector, app = Collector(), web.Application()
    app.router.add_post("/v1/{signal}", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    collector.url = f"http://{host}:{port}"
    yield collector
    await runner.cleanup()


def plain(holder: Any) -> dict[str, Any]:
    return {pair.key: value(pair.value) for pair in holder.attributes}


def value(any_value: AnyValue) -> Any:
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    return getattr(any_value, str(kind))


def looked(layer: str, action: str = "allow", **more: Any) -> LayerEvent:
    verdict = Verdict(action=action, score=0.9, threshold=0.5, hazard="cyber", reason=SECRET)
    return LayerEvent(
        layer=layer, phase="request", mode="enforce", verdict=verdict, version="v1", input_sha256="", seconds=0.25
    )


def generated(**changes: Any) -> ModelEvent:
    said = {
        "model": "small",
        "version": "1",
        "input_sha256": "",
        "messages": user(SECRET),
        "text": SECRET,
        "finish": "stop",
        "answered": "small-0613",
        "input_tokens": 7,
        "output_tokens": 3,
        "seconds": 1.0,
    }
    return ModelEvent(**(said | changes))


def a_trace(*events: Event, status: str = "delivered") -> Trace:
    ends = OutcomeEvent(status=status, delivered=SECRET, seconds=1.5)
    begins = RequestEvent(messages=user(SECRET), caller=SECRET)
    return Trace(id="abc", stack="fingerprint", started=1000.0, events=(begins, *events, ends))


async def send(collector: Collector, trace: Trace, *, content: bool = False, **more: Any) -> None:
    sender = Spans(collector.url, version="1.2", content=content)
    sender.export(trace, **({"route": "chat", "status": "delivered", "upstream": HERE} | more))
    await asyncio.to_thread(sender.close)


async def test_a_request_is_one_span_with_its_layers_and_the_generation_below(collector: Collector) -> None:
    await send(collector, a_trace(looked("in1"), generated()), stream=True, first_token_s=0.4)
    root = collector.span("alignstack.request")
    assert root.kind == Span.SPAN_KIND_SERVER
    assert not root.parent_span_id
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (1000_000_000_000, 1001_500_000_000)
    assert plain(root) == {
        "alignstack.trace_id": "abc",
        "alignstack.stack": "fingerprint",
        "alignstack.route": "chat",
        "alignstack.status": "delivered",
        "alignstack.first_token_seconds": 0.4,
    }
    children = [span for span in collector.spans if span is not root]
    assert {span.name for span in children} == {"alignstack.layer in1", "chat small"}
    assert {span.parent_span_id for span in children} == {root.span_id}
    assert {span.trace_id for span in children} == {root.trace_id}
    assert collector.resource["service.name"] == "alignstack"
    assert collector.resource["service.version"] == "1.2"


async def test_the_generation_is_described_as_the_conventions_say(collector: Collector) -> None:
    await send(collector, a_trace(generated()), stream=True)
    span = collector.span("chat small")
    assert span.kind == Span.SPAN_KIND_CLIENT
    assert plain(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "small",
        "gen_ai.request.stream": True,
        "gen_ai.response.id": "abc",
        "gen_ai.response.model": "small-0613",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "server.address": "127.0.0.1",
        "server.port": 8000,
    }


async def test_a_verdict_is_described_without_its_reason(collector: Collector) -> None:
    await send(collector, a_trace(looked("in1", "block"), status="blocked"), status="blocked")
    span = collector.span("alignstack.layer in1")
    assert span.end_time_unix_nano - span.start_time_unix_nano == 250_000_000
    assert plain(span) == {
        "alignstack.layer.name": "in1",
        "alignstack.layer.phase": "request",
        "alignstack.layer.mode": "enforce",
        "alignstack.layer.version": "v1",
        "alignstack.layer.action": "block",
        "alignstack.layer.score": 0.9,
        "alignstack.layer.threshold": 0.5,
        "alignstack.layer.hazard": "cyber",
    }
    assert plain(collector.span("alignstack.request"))["alignstack.blocked_by"] == "in1"


async def test_failures_are_errors(collector: Collector) -> None:
    fault = LayerError(
        layer="in1",
        phase="request",
        mode="enforce",
        fault="timeout",
        on_error="allow",
        message=SECRET,
        version="1",
        input_sha256="",
    )
    failed = generated(finish="unavailable", status=503, text="")
    await send(collector, a_trace(fault, failed, status="unavailable"), status="unavailable")
    names = "alignstack.layer in1", "chat small", "alignstack.request"
    spans = [collector.span(name) for name in names]
    assert [plain(span)["error.type"] for span in spans] == ["timeout", "503", "unavailable"]
    assert {span.status.code for span in spans} == {Status.STATUS_CODE_ERROR}


async def test_nothing_that_was_said_leaves_unless_asked_for(collector: Collector) -> None:
    await send(collector, a_trace(looked("in1"), generated()))
    assert collector.spans
    assert SECRET.encode() not in collector.raw


async def test_what_was_said_leaves_when_asked_for(collector: Collector) -> None:
    messages = (
        *user("weather?"),
        Message(role="assistant", content="", calls=(ToolCall(id="1", name="look", arguments="{}"),)),
        Message(role="tool", content="rain", call_id="1"),
    )
    await send(collector, a_trace(looked("in1"), generated(messages=messages)), content=True)
    said = plain(collector.span("chat small"))
    assert json.loads(said["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "weather?"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "1", "name": "look", "arguments": "{}"}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": "rain"}]},
    ]
    assert json.loads(said["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": SECRET}], "finish_reason": "stop"}
    ]
    assert plain(collector.span("alignstack.layer in1"))["alignstack.layer.reason"] == SECRET


async def test_the_requests_traceparent_is_the_parent_even_when_it_asks_not_to_be_seen(collector: Collector) -> None:
    await send(collector, a_trace(), traceparent=PARENT[:-1] + "0", tracestate="vendor=1")
    root = collector.span("alignstack.request")
    assert root.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert root.parent_span_id.hex() == "b7ad6b7169203331"


async def test_the_usual_variables_decide_what_is_sampled(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front")
    await send(collector, a_trace(generated()))
    assert not collector.spans
    await send(collector, a_trace(generated()), traceparent=PARENT)
    assert len(collector.spans) == 2
    assert collector.resource["service.name"] == "front"


@pytest.mark.parametrize("header", ["garbage", PARENT.replace("0af7", "\udc80"), "0" * 9999])
async def test_a_traceparent_that_is_none_is_ignored(collector: Collector, header: str) -> None:
    await send(collector, a_trace(), traceparent=header)
    assert not collector.span("alignstack.request").parent_span_id


async def test_half_a_character_does_not_cost_the_batch(collector: Collector) -> None:
    await send(collector, a_trace(generated(answered="\ud83d", text="\ud83d")), content=True)
    assert plain(collector.span("chat small"))["gen_ai.response.model"] == "?"


async def test_durations_and_tokens_are_measured(collector: Collector) -> None:
    await send(collector, a_trace(generated()), first_token_s=0.4)
    [took] = collector.metric("gen_ai.server.request.duration").histogram.data_points
    [first] = collector.metric("gen_ai.server.time_to_first_token").histogram.data_points
    tokens = collector.metric("gen_ai.client.token.usage").histogram.data_points
    assert (took.sum, first.sum) == (1.5, 0.4)
    assert {plain(point)["gen_ai.token.type"]: point.sum for point in tokens} == {"input": 7, "output": 3}
    assert plain(took)["gen_ai.request.model"] == "small"


async def test_what_waits_is_sent_when_the_gateway_stops(collector: Collector) -> None:
    sender = Spans(collector.url, version="1")
    for _ in range(50):
        sender.export(a_trace(), route="chat", status="delivered", upstream=HERE)
    await asyncio.to_thread(sender.close)
    assert len(collector.spans) + sender.dropped == 50
    assert sender.dropped == 0


async def test_requests_beyond_what_may_wait_are_dropped_and_counted(collector: Collector) -> None:
    sender = Spans(collector.url, version="1", metrics=False)
    for _ in range(3 * WAITING):
        sender.export(a_trace(), route="chat", status="delivered", upstream=HERE)
    await asyncio.to_thread(sender.close)
    assert 0 < sender.dropped < 3 * WAITING
    assert 0 < len(collector.spans) <= 3 * WAITING - sender.dropped


async def test_a_collector_that_refuses_does_not_keep_the_gateway_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otlp, "SEND_S", 0.2)
    sender = Spans("http://127.0.0.1:9", version="1")
    sender.export(a_trace(generated()), route="chat", status="delivered", upstream=HERE)
    await asyncio.wait_for(asyncio.to_thread(sender.close), timeout=60)


def test_without_the_extra_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from alignstack.core.errors import ConfigError\n"
        "from alignstack.telemetry.otel import Spans\n"
        "try:\n    Spans('http://127.0.0.1:9', version='1')\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'alignstack[otel]'" in said
