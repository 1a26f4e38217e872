"""Every route, streamed or not, in every way a request can end: what the official SDKs and a client that reads bytes
receive, held against the trace, the ledger and the model server."""

import asyncio
import re
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio
from openai import NotFoundError as OpenAINotFound

from alignstack.core.events import LayerError, LayerEvent
from alignstack.core.layer import View
from alignstack.core.trace import Trace, verdicts
from alignstack.core.usage import Settled
from alignstack.engine.check import blocks
from tests.gateway.conformance import brittle
from tests.gateway.conformance.clients import PATHS, Seen, body
from tests.gateway.conformance.deployments import NAMES, OUTPUT, REFUSAL, REQUEST, Deployed, deployed, stack
from tests.gateway.conformance.reading import choice, chunks
from tests.gateway.conformance.upstream import ASKED, LOGPROBS, SCRIPTS, Upstream, upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTES = tuple(PATHS)
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
ROUTE = pytest.mark.parametrize("route", ROUTES)


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(brittle.install(tmp_path_factory.mktemp("plugin") / "site")))
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Upstream]:
    async with upstream() as running:
        yield running


Gateways = Mapping[str, Deployed]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateways(server: Upstream, plugin: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateways]:
    """By name; they differ in what stands behind `use: openai_http` and in what a block looks like."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()[1]
    same = f"{{use: openai_http, base_url: '{server.url}/v1', model: tiny, max_retries: 0"
    texts = {
        "openai": stack(same + "}"),
        "racing": stack(same + "}", "race: true"),
        "error": stack(same + "}", "on_block: error"),
        "in one piece": stack(same + "}").replace("streaming: true", "streaming: false"),
        "thoughtful": stack(same + "}", seconds=0.01),
        "racing, thoughtful": stack(same + "}", "race: true", seconds=0.01),
        "asleep": stack(same + "}", seconds=20),
        "overdue": stack(same + "}", seconds=20).replace("word: crash", "word: crash, timeout_ms: 50"),
        "steady": stack(same + "}", "serve: {block_seconds: 0.3}"),
        "choosing": stack(same + "}", "serve: {moderation: client}"),
        "impatient": stack(same + ", timeout_s: 0.4}"),
        "dead": stack(f"{{use: openai_http, base_url: 'http://127.0.0.1:{dead}/v1', model: tiny, max_retries: 0}}"),
    }
    async with AsyncExitStack() as opened:
        yield {
            name: await opened.enter_async_context(deployed(tmp_path_factory.mktemp(name), text, server))
            for name, text in texts.items()
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def anthropic(
    server: Upstream, plugin: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployed]:
    text = stack(f"{{use: anthropic_http, base_url: '{server.url}', model: tiny, max_retries: 0}}")
    async with deployed(tmp_path_factory.mktemp("anthropic"), text, server) as at:
        yield at


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way in which a request can end."""

    prompt: str
    """Its first word is what the model server is to do."""
    gateway: str = "openai"
    script: str = ""
    """What the model says, if it is asked and answers."""
    asked: bool = True
    """The model server was reached."""
    http: int = 200
    status: str = "delivered"
    """In the ledger."""
    ending: str = "stop"
    error: str = ""
    """OpenAI's code."""
    said: Mapping[str, str] = field(default_factory=dict)
    """Verdicts other than those of layers that let everything pass."""
    silent: tuple[str, ...] = ()
    """Layers that are not asked."""


Pair = tuple[Case, Case]
"""Of an answer that comes whole, and of a stream."""


def both(case: Case) -> Pair:
    return case, case


def stopped(by: str, word: str, said: str = "block", **more: Any) -> Pair:
    """Before the model was asked."""
    case = Case(prompt=f"bread {word}", asked=False, status="blocked", ending="content_filter", said={by: said})
    return both(replace(case, silent=("system_prompt", *OUTPUT), **more))


def answered(script: str, **more: Any) -> Pair:
    return both(replace(Case(prompt=script, script=script), **more))


def held(script: str, by: str, said: str = "block", **more: Any) -> Pair:
    """Stopped by an output layer, before anything left where nothing leaves early."""
    case = Case(prompt=script, script=script, status="blocked", ending="content_filter", said={by: said})
    return replace(case, **more), replace(case, status="cut")


def failed(fault: str, http: int, error: str = "", **more: Any) -> Pair:
    """By a model server that did not answer."""
    case = Case(prompt=fault, status="unavailable", ending="error", http=http, error=error, silent=OUTPUT)
    return both(replace(case, **more))


def broke(fault: str, http: int = 502, error: str = "upstream_error", **more: Any) -> Pair:
    """The model server answered, and then no more."""
    case = Case(prompt=fault, script="bread", status="unavailable", ending="error", error=error)
    case = replace(case, **more)
    return replace(case, http=http, silent=OUTPUT), case


def an_error(pair: Pair) -> Pair:
    """Where a block is an error. Of a stream the status has been sent by the time it is cut."""
    whole, stream = (replace(case, gateway="error") for case in pair)
    whole = replace(whole, http=400, ending="error", error="content_filter")
    return whole, stream if stream.status == "cut" else replace(whole, said=stream.said)


CASES: dict[str, Pair] = {
    "allow": answered("bread"),
    "allow, length": answered("short", ending="length"),
    "input block": stopped("in1", "bomb"),
    "input block, other layer": stopped("in2", "malware"),
    "output block": held("late1", "out1"),
    "output block, other layer": held("late2", "out2"),
    "output block, first word": both(held("early1", "out1")[0]),
    "output block, first word, other layer": both(held("early2", "out2")[0]),
    "model declines in words": answered("declines", status="refused"),
    "model declines in a field": answered("refusal", status="refused"),
    "model thinks": answered("thinks"),
    "thoughts blocked": held("leaks", "out1"),
    "tool call": answered("tool", ending="tool_calls"),
    "tool call, blocked": held("leaky", "out1"),
    "input layer error, closed": stopped("in_closed", "crash", "error"),
    "input layer error, open": answered("bread", prompt="bread stumble", said={"in_open": "error"}),
    "output layer error, closed": held("snaps", "out_closed", "error"),
    "output layer error, open": answered("bends", said={"out_open": "error"}),
    "upstream 500": failed("500", 502, "upstream_error"),
    "upstream 429": failed("429", 429, "upstream_rate_limit"),
    "upstream 400": failed("400", 400, "invalid_request_error"),
    "upstream hangs": failed("hang", 504, "upstream_timeout", gateway="impatient"),
    "upstream closes": failed("reset", 502, "upstream_error"),
    "upstream is not there": failed("bread", 502, "upstream_error", gateway="dead", asked=False),
    "upstream breaks off": broke("abort"),
    "upstream error in mid-answer": broke("error"),
    "upstream garbage in mid-answer": broke("garbage"),
    "upstream stalls in mid-answer": broke("stall", 504, "upstream_timeout", gateway="impatient"),
    "block is an error, input": an_error(stopped("in1", "bomb")),
    "block is an error, output": an_error(held("late1", "out1")),
    "block is an error, first word": an_error(both(held("early1", "out1")[0])),
}


@STREAM
@ROUTE
@pytest.mark.parametrize("name", CASES)
async def test_cell(gateways: Gateways, name: str, route: str, stream: bool) -> None:
    case = CASES[name][stream]
    await check_cell(gateways[case.gateway], case, route, stream)


async def check_cell(at: Deployed, case: Case, route: str, stream: bool) -> None:
    tag = secrets.token_hex(4)
    asked = body(route, f"{case.prompt} {tag}", stream=stream)
    by_sdk, by_hand = await asyncio.gather(at.clients.by_sdk(route, asked), at.clients.by_hand(route, asked))
    for seen in (by_sdk, by_hand):
        trace, settled = await at.trace(seen.id), await at.settled(seen.id)
        check_seen(case, route, seen, trace)
        check_layers(case, trace)
        check_delivered(case, trace)
        check_settled(case, seen, settled)
    assert bool(at.upstream.asked(tag)) == case.asked


def check_seen(case: Case, route: str, seen: Seen, trace: Trace) -> None:
    """What the client has is what the trace says that it has."""
    assert trace.outcome is not None
    assert (seen.status, seen.read.ending) == (case.http, ending(case, route))
    assert seen.read.error == error(case, route)
    assert seen.read.text == ("" if case.status == "blocked" and case.http == 400 else trace.outcome.delivered)
    if case.status == "blocked":
        assert trace.outcome.delivered == REFUSAL


def ending(case: Case, route: str) -> str:
    """Anthropic's API says `refusal` also of a model that declined in a field of its own."""
    return "content_filter" if (route, case.script) == ("messages", "refusal") else case.ending


def error(case: Case, route: str) -> str:
    if not case.error or route != "messages":
        return case.error
    kinds = {
        "upstream_rate_limit": "rate_limit_error",
        "upstream_timeout": "timeout_error",
        "upstream_error": "api_error",
        "content_filter": "invalid_request_error",
    }
    return kinds.get(case.error, case.error)


def check_layers(case: Case, trace: Trace) -> None:
    """Who looked, and what they said. The shadow is apart: what it says follows from what it was shown."""
    said = verdicts(trace, NAMES)
    expected = {name: "abstain" if name in case.silent else "allow" for name in NAMES}
    expected["system_prompt"] = "abstain" if "system_prompt" in case.silent else "modify"
    expected |= case.said
    shown = [tokens for event, tokens in looks(case, trace) if event.layer == "watch"]
    if shown and "flour" in "".join(pieces(case)[: max(shown)]):
        expected["watch"] = "block"
    assert said == expected


def check_delivered(case: Case, trace: Trace) -> None:
    """Nothing left before every enforcing output layer had been shown it and let it go."""
    assert trace.outcome is not None
    let_go = dict.fromkeys(OUTPUT, 0)
    for event, tokens in looks(case, trace):
        if event.mode == "shadow" or not blocks(event):
            let_go[event.layer] = max(let_go[event.layer], tokens)
    del let_go["watch"]
    if trace.outcome.status != "blocked":
        assert "".join(pieces(case)[: min(let_go.values())]).startswith(trace.outcome.delivered)
    if trace.outcome.status == "cut":
        assert trace.outcome.delivered


def looks(case: Case, trace: Trace) -> list[tuple[LayerEvent | LayerError, int]]:
    """What output layers said, each with the tokens of the answer that it was shown: by the digest of what it saw,
    which has to be that of an exact prefix."""
    found = [event for event in trace.layer_events if event.phase == "output"]
    if not found or trace.generation is None:
        return []
    ends = sorted({event.at_token for event in found if isinstance(event, LayerEvent) and event.at_token})
    view = View(phase="output", messages=trace.generation.messages, draft="".join(pieces(case)))
    shown = {view.digest: len(pieces(case))}
    look: View | None = None
    for end in ends:
        look = view.grown("".join(pieces(case)[:end]), look)
        shown.setdefault(look.digest, end)
    return [(event, shown[event.input_sha256]) for event in found]


def pieces(case: Case) -> list[str]:
    return SCRIPTS[case.script].read if case.script else []


def check_settled(case: Case, seen: Seen, settled: Settled) -> None:
    """What the ledger says, and what of it the client is told: of a blocked answer nothing, since the numbers would
    tell whether the model was asked."""
    assert settled.status == case.status
    assert settled.layer == (next(iter(case.said)) if case.status in ("blocked", "cut") else "")
    if case.status in ("delivered", "refused"):
        assert seen.read.usage == (ASKED, len(pieces(case))) == (settled.input_tokens, settled.output_tokens)
    if case.status == "cut" or (case.status == "unavailable" and seen.read.text):
        assert settled.input_tokens > 0 and settled.output_tokens > 0
    if case.status == "blocked" and seen.status == 200:
        assert seen.read.usage == (0, 0)


IN_ONE_PIECE = (
    "allow", "input block", "output block", "model declines in a field", "tool call", "model thinks", "upstream 500",
    "upstream breaks off",
)  # fmt: skip


@ROUTE
@pytest.mark.parametrize("name", IN_ONE_PIECE)
async def test_a_stack_that_does_not_stream_answers_streams_in_one_piece(
    gateways: Gateways, name: str, route: str
) -> None:
    await check_cell(gateways["in one piece"], CASES[name][0], route, stream=True)


IN_THEIR_OWN_TIME = (
    "allow", "input block", "output block", "output block, first word", "tool call, blocked",
    "input layer error, closed", "input layer error, open", "output layer error, closed", "output layer error, open",
    "upstream error in mid-answer",
)  # fmt: skip


@STREAM
@ROUTE
@pytest.mark.parametrize("name", IN_THEIR_OWN_TIME)
async def test_layers_that_take_their_time_let_no_more_out(
    gateways: Gateways, name: str, route: str, stream: bool
) -> None:
    """Answers are the same; who else had looked before one of them blocked is chance."""
    case = CASES[name][stream]
    both = gateways["thoughtful"], gateways["racing, thoughtful"]
    asked = body(route, case.prompt, stream=stream)
    for at, seen in zip(both, await asyncio.gather(*(at.clients.by_hand(route, asked) for at in both)), strict=True):
        trace, settled = await at.trace(seen.id), await at.settled(seen.id)
        check_seen(case, route, seen, trace)
        check_delivered(replace(case, script=case.script or "bread"), trace)
        assert settled.status == case.status
        said = verdicts(trace, NAMES)
        assert {name: said[name] for name in case.said} == case.said


HELPERS = ("allow", "input block", "output block", "model declines in a field", "tool call")


@ROUTE
@pytest.mark.parametrize("name", HELPERS)
async def test_what_the_sdks_put_together_from_a_stream(gateways: Gateways, name: str, route: str) -> None:
    """Their helpers check every event against those before it."""
    case, at = CASES[name][True], gateways["openai"]
    read = await at.clients.put_together(route, body(route, case.prompt, stream=True))
    trace = await at.trace((await at.running.ledger())[-1].id)
    assert trace.outcome is not None
    assert (read.text, read.ending) == (trace.outcome.delivered, ending(case, route))


@STREAM
@ROUTE
async def test_a_layer_that_takes_too_long_has_failed(gateways: Gateways, route: str, stream: bool) -> None:
    at = gateways["overdue"]
    seen = await at.clients.by_sdk(route, body(route, "bread", stream=stream))
    assert (seen.read.text, seen.read.ending) == (REFUSAL, "content_filter")
    assert (await at.settled(seen.id)).layer == "in_closed"
    [error] = [event for event in (await at.trace(seen.id)).layer_events if isinstance(event, LayerError)]
    assert (error.layer, error.fault, error.on_error) == ("in_closed", "timeout", "block")


# ---------------------------------------------------------------- what a block looks like

AT_ONCE = ("bread bomb", "bread malware", "bread crash", "early1", "early2")
"""Prompts that five different layers stop before anything has left."""
AT_THE_END = ("late1", "late2", "snaps", "leaky")
"""That layers stop where nothing leaves early."""


def blurred(seen: Seen) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and bytes without ids and times."""
    raw = seen.raw.replace(seen.id.encode(), b"ID")
    headers = {name: value for name, value in seen.headers.items() if name not in ("date", "x-request-id")}
    return seen.status, headers, re.sub(rb'"created(_at)?":\d+', b'"created":0', raw)


@pytest.mark.parametrize("gateway", ["openai", "racing", "error"])
@STREAM
@ROUTE
async def test_nothing_in_a_blocked_answer_tells_who_blocked(
    gateways: Gateways, route: str, stream: bool, gateway: str
) -> None:
    at = gateways[gateway]
    prompts = AT_ONCE if stream else (*AT_ONCE, *AT_THE_END)
    answers = [await at.clients.by_hand(route, body(route, prompt, stream=stream)) for prompt in prompts]
    stopped_by = {(await at.settled(seen.id)).layer for seen in answers}
    assert len(stopped_by) >= 5
    assert all(blurred(seen) == blurred(answers[0]) for seen in answers)


@STREAM
@ROUTE
async def test_a_request_layer_that_blocks_while_the_model_speaks_lets_nothing_out(
    gateways: Gateways, route: str, stream: bool
) -> None:
    at = gateways["racing"]
    seen = await at.clients.by_sdk(route, body(route, "bread bomb", stream=stream))
    assert seen.read.text == REFUSAL
    trace = await at.trace(seen.id)
    assert verdicts(trace, NAMES)["in1"] == "block"
    seen = await at.clients.by_sdk(route, body(route, "bread", stream=stream))
    assert seen.read.text == "".join(SCRIPTS["bread"].read)
    check_layers(CASES["allow"][stream], await at.trace(seen.id))


@STREAM
@pytest.mark.parametrize("prompt", ["bread bomb", "early1"])
async def test_time_does_not_tell_who_blocked_either(gateways: Gateways, prompt: str, stream: bool) -> None:
    start = asyncio.get_running_loop().time()
    seen = await gateways["steady"].clients.by_hand("chat", body("chat", prompt, stream=stream))
    assert seen.read.text == REFUSAL
    assert asyncio.get_running_loop().time() - start >= 0.3


# ---------------------------------------------------------------- clients that go away

SOON = 5.0
"""Seconds in which a model server has to learn that nobody listens any more; it takes some milliseconds."""


@pytest.mark.parametrize("gateway", ["openai", "anthropic upstream"])
@ROUTE
async def test_a_client_that_leaves_a_stream_stops_the_model(
    gateways: Gateways, anthropic: Deployed, route: str, gateway: str
) -> None:
    at = anthropic if gateway == "anthropic upstream" else gateways[gateway]
    tag = secrets.token_hex(4)
    asked = body(route, f"endless {tag}", stream=True)
    async with at.clients.session.post(at.running.url + PATHS[route], json=asked) as answer:
        trace_id = answer.headers["x-request-id"]
        assert await answer.content.read(200)
        answer.close()
    await check_abandoned(at, tag, trace_id)


@ROUTE
async def test_an_sdk_that_leaves_a_stream_stops_the_model(gateways: Gateways, route: str) -> None:
    at, tag = gateways["openai"], secrets.token_hex(4)
    trace_id = await at.clients.leave(route, body(route, f"endless {tag}", stream=True), after=3)
    await check_abandoned(at, tag, trace_id)


@pytest.mark.parametrize("gateway", ["openai", "racing"])
@ROUTE
async def test_a_client_that_leaves_while_it_waits_stops_the_model(
    gateways: Gateways, route: str, gateway: str
) -> None:
    at, tag = gateways[gateway], secrets.token_hex(4)
    waiting = asyncio.ensure_future(at.clients.by_hand(route, body(route, f"endless {tag}", stream=False)))
    async with asyncio.timeout(SOON):
        await at.upstream.arrival(tag)
    waiting.cancel()
    await check_abandoned(at, tag, "")


@STREAM
@ROUTE
async def test_a_client_that_leaves_before_the_model_is_asked_has_not_asked_it(
    gateways: Gateways, route: str, stream: bool
) -> None:
    at, tag = gateways["asleep"], secrets.token_hex(4)
    before = len(await at.running.ledger())
    waiting = asyncio.ensure_future(at.clients.by_hand(route, body(route, f"bread {tag}", stream=stream)))
    async with asyncio.timeout(SOON):
        while len(await at.running.ledger()) == before:
            continue  # until the request has been let in
    waiting.cancel()
    trace_id = await at.newest("")
    settled, trace = await at.settled(trace_id), await at.trace(trace_id)
    assert (settled.status, settled.input_tokens, settled.output_tokens) == ("abandoned", 0, 0)
    assert trace.generation is None and not at.upstream.asked(tag)


@STREAM
async def test_a_client_that_leaves_stops_all_of_its_answers(gateways: Gateways, stream: bool) -> None:
    at, tag = gateways["openai"], secrets.token_hex(4)
    waiting = asyncio.ensure_future(at.clients.by_hand("chat", body("chat", f"endless {tag}", stream=stream, n=3)))
    async with asyncio.timeout(SOON):
        await at.upstream.arrival(tag, 3)
    waiting.cancel()
    async with asyncio.timeout(SOON):
        for asked in at.upstream.asked(tag):
            await asked.gone.wait()
    trace_id = await at.newest("")
    assert (await at.settled(trace_id)).status == "abandoned"
    traces = [await at.trace(f"{trace_id}{answer}") for answer in ("", ".1", ".2")]
    assert [trace.outcome.status for trace in traces if trace.outcome] == ["abandoned"] * 3


async def check_abandoned(at: Deployed, tag: str, trace_id: str) -> None:
    [asked] = at.upstream.asked(tag)
    async with asyncio.timeout(SOON):
        await asked.gone.wait()
    trace_id = await at.newest(trace_id)
    settled = await at.settled(trace_id)
    assert (settled.status, settled.input_tokens > 0) == ("abandoned", True)
    trace = await at.trace(trace_id)
    assert trace.outcome is not None and trace.generation is not None
    assert (trace.outcome.status, trace.generation.finish) == ("abandoned", "cancelled")
    assert trace.generation.text.startswith(trace.outcome.delivered)


# ---------------------------------------------------------------- several answers


@STREAM
async def test_each_of_several_answers_goes_down_the_stack(gateways: Gateways, stream: bool) -> None:
    at, tag = gateways["openai"], secrets.token_hex(4)
    at.upstream.in_turn(tag, "bread", "late1", "declines")
    seen = await at.clients.by_hand("chat", body("chat", f"any {tag}", stream=stream, n=3))
    read = [chunks(seen.events, index) if stream else choice(seen.body, index) for index in range(3)]
    traces = [await at.trace(seen.id), await at.trace(f"{seen.id}.1"), await at.trace(f"{seen.id}.2")]
    assert [answer.text for answer in read] == [trace.outcome.delivered for trace in traces if trace.outcome]
    assert sorted(answer.ending for answer in read) == ["content_filter", "stop", "stop"]
    assert sum("".join(SCRIPTS["bread"].read) == answer.text for answer in read) == 1
    assert not any("swordfish" in answer.text for answer in read)
    for trace in traces:
        assert [verdicts(trace, NAMES)[name] for name in REQUEST] == ["allow"] * 4
    settled = await at.settled(seen.id)
    assert (settled.status, settled.layer) == ("cut" if stream else "blocked", "out1")
    assert len(at.upstream.asked(tag)) == 3


@STREAM
async def test_one_of_several_answers_that_fails_fails_the_request(gateways: Gateways, stream: bool) -> None:
    at, tag = gateways["openai"], secrets.token_hex(4)
    at.upstream.in_turn(tag, "bread", "error", "tool")
    seen = await at.clients.by_hand("chat", body("chat", f"any {tag}", stream=stream, n=3))
    assert (seen.status, seen.read.error) == (200 if stream else 502, "upstream_error")
    traces = [await at.trace(seen.id), await at.trace(f"{seen.id}.1"), await at.trace(f"{seen.id}.2")]
    statuses = sorted(trace.outcome.status for trace in traces if trace.outcome)
    assert statuses == ["delivered", "delivered", "unavailable"]
    assert (await at.settled(seen.id)).status == "unavailable"


@STREAM
async def test_what_several_answers_share_is_blocked_for_all(gateways: Gateways, stream: bool) -> None:
    at, tag = gateways["openai"], secrets.token_hex(4)
    seen = await at.clients.by_sdk("chat", body("chat", f"bread bomb {tag}", stream=stream, n=3))
    read = [chunks(seen.events, index) if stream else choice(seen.body, index) for index in range(3)]
    assert [(answer.text, answer.ending) for answer in read] == [(REFUSAL, "content_filter")] * 3
    assert (await at.settled(seen.id)).status == "blocked"
    assert not at.upstream.asked(tag)


# ---------------------------------------------------------------- what goes through

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
DATA = f"data:image/png;base64,{PIXEL}"
IMAGES: dict[str, tuple[Any, Any]] = {
    "chat": ({"type": "image_url", "image_url": {"url": DATA, "detail": "low"}},) * 2,
    "responses": (
        {"type": "input_image", "image_url": DATA, "detail": "low"},
        {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}},
    ),
    "messages": (
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "image_url", "image_url": {"url": DATA}},
    ),
}
"""What clients send, and what a server of chat completions gets."""


@STREAM
@ROUTE
async def test_an_image_goes_through_and_is_said_to_be_unchecked(gateways: Gateways, route: str, stream: bool) -> None:
    at, tag = gateways["openai"], secrets.token_hex(4)
    sent, expected = IMAGES[route]
    text = {"type": "input_text" if route == "responses" else "text", "text": f"bread {tag}"}
    seen = await at.clients.by_sdk(route, body(route, [text, sent], stream=stream))
    assert seen.read.text == "".join(SCRIPTS["bread"].read)
    [asked] = at.upstream.asked(tag)
    assert asked.body["messages"][-1]["content"] == [{"type": "text", "text": f"bread {tag}"}, expected]
    said = verdicts(await at.trace(seen.id), NAMES)
    assert [said[name] for name in REQUEST] == ["abstain"] * 4
    assert [said[name] for name in OUTPUT] == ["allow"] * 4 + ["block"]


@ROUTE
async def test_the_text_beside_an_image_is_checked(gateways: Gateways, route: str) -> None:
    text = {"type": "input_text" if route == "responses" else "text", "text": "bread bomb"}
    seen = await gateways["openai"].clients.by_sdk(route, body(route, [IMAGES[route][0], text], stream=False))
    assert (seen.read.text, seen.read.ending) == (REFUSAL, "content_filter")


SCHEMA = {"type": "object", "properties": {"city": {"type": ["string", "null"]}}, "required": ["city"]}
FORMAT = {"name": "place", "schema": SCHEMA, "strict": True}
FUNCTION = {"name": "weather", "description": "of a city", "parameters": SCHEMA, "strict": False}
UNKNOWN = {"deep": [1, None, {"ä": 1.5}]}
SENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "chat": (
        same := {
            "response_format": {"type": "json_schema", "json_schema": FORMAT},
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "parallel_tool_calls": False,
            "logprobs": True,
            "top_logprobs": 2,
            "stop": ["END", "."],
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 11,
            "max_tokens": 50,
            "frequency_penalty": -0.5,
            "logit_bias": {"50256": -100},
            "extra_body": {"x_unknown": UNKNOWN},
        },
        same,
    ),
    "responses": (
        {
            "text": {"format": {"type": "json_schema", **FORMAT}},
            "tools": [{"type": "function", **FUNCTION}],
            "tool_choice": {"type": "function", "name": "weather"},
            "parallel_tool_calls": False,
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 2,
            "temperature": 0.7,
            "top_p": 0.9,
            "max_output_tokens": 50,
            "reasoning": {"effort": "low"},
            "extra_body": {"x_unknown": UNKNOWN},
        },
        {
            **{name: same[name] for name in ("response_format", "tools", "tool_choice", "parallel_tool_calls")},
            **{name: same[name] for name in ("logprobs", "top_logprobs", "temperature", "top_p", "max_tokens")},
            "reasoning_effort": "low",
        },
    ),
    "messages": (
        {
            "tools": [{"name": "weather", "description": "of a city", "input_schema": SCHEMA, "strict": False}],
            "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            "stop_sequences": ["END", "."],
            "max_tokens": 50,
            "extra_body": {"x_unknown": UNKNOWN, "top_k": 3, "temperature": 0.7, "top_p": 0.9},
        },
        {
            **{name: same[name] for name in ("tools", "tool_choice", "parallel_tool_calls", "stop")},
            **{name: same[name] for name in ("temperature", "top_p", "max_tokens")},
            "top_k": 3,
        },
    ),
}
"""What clients send, and what a server of chat completions gets."""


@STREAM
@ROUTE
async def test_keys_arrive_unchanged(gateways: Gateways, route: str, stream: bool) -> None:
    at, tag = gateways["openai"], secrets.token_hex(4)
    sent, expected = SENT[route]
    await at.clients.by_sdk(route, {**body(route, f"bread {tag}", stream=stream), **sent})
    [asked] = at.upstream.asked(tag)
    wanted = {**expected, "x_unknown": UNKNOWN, "model": "tiny", "stream": stream}
    wanted.pop("extra_body", None)
    if stream:
        wanted["stream_options"] = {"include_usage": True}
    assert {name: value for name, value in asked.body.items() if name != "messages"} == wanted


async def test_turns_arrive_unchanged(gateways: Gateways) -> None:
    at, tag = gateways["openai"], secrets.token_hex(4)
    call = {"id": "call_7", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    turns = [
        {"role": "user", "content": "And in Paris?", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_7", "content": "rain"},
        {"role": "user", "content": f"bread {tag}"},
    ]
    await at.clients.by_sdk("chat", {**body("chat", "", stream=False), "messages": turns})
    [asked] = at.upstream.asked(tag)
    assert asked.body["messages"][0]["role"] == "system"  # the layer's
    assert asked.body["messages"][1:] == turns


@STREAM
async def test_log_probabilities_come_back(gateways: Gateways, stream: bool) -> None:
    seen = await gateways["openai"].clients.by_sdk("chat", body("chat", "logprobs", stream=stream, logprobs=True))
    if not stream:
        assert seen.body["choices"][0]["logprobs"]["content"] == LOGPROBS["content"]
        return
    found = [event["choices"][0]["logprobs"] for event in seen.events if event["choices"]]
    assert [logprobs["content"] for logprobs in found if logprobs] == [LOGPROBS["content"]]


@pytest.mark.parametrize("include", [True, False])
async def test_a_stream_ends_with_what_was_used_if_the_client_asks(gateways: Gateways, include: bool) -> None:
    asked = body("chat", "bread", stream=True, stream_options={"include_usage": include})
    seen = await gateways["openai"].clients.by_hand("chat", asked)
    if not include:
        assert not any("usage" in event for event in seen.events)
        return
    *others, last = seen.events
    assert all(event["usage"] is None for event in others)
    said = len(SCRIPTS["bread"].pieces)
    counts = {"prompt_tokens": ASKED, "completion_tokens": said, "total_tokens": ASKED + said}
    assert last["choices"] == [] and last["usage"] == {**counts, "prompt_tokens_details": {"cached_tokens": 3}}


async def test_a_busy_model_server_says_when_to_come_back(gateways: Gateways) -> None:
    seen = await gateways["openai"].clients.by_sdk("chat", body("chat", "429", stream=False))
    assert seen.headers["retry-after"] == "7"


# ---------------------------------------------------------------- moderation


MODERATED: dict[str, tuple[str, str, str, str]] = {
    "score, enforced": ("openai", "score", "bread bomb", "in1"),
    "score, where clients choose": ("choosing", "score", "bread bomb", ""),
    "block": ("openai", "block", "bread bomb", "in1"),
    "block, by a shadow": ("openai", "block", "bread", "watch"),
}
"""Gateway, mode, prompt, and who blocks."""


@STREAM
@pytest.mark.parametrize("route", ["chat", "responses"])
@pytest.mark.parametrize("name", MODERATED)
async def test_moderation_on_request(gateways: Gateways, name: str, route: str, stream: bool) -> None:
    gateway, mode, prompt, blocker = MODERATED[name]
    at = gateways[gateway]
    moderation = {"model": "any", "policy": {"input": {"mode": mode}, "output": {"mode": mode}}}
    asked = {**body(route, prompt, stream=stream), "extra_body": {"moderation": moderation}}
    seen = await at.clients.by_sdk(route, asked)
    settled, report = await at.settled(seen.id), moderation_of(route, seen)
    assert settled.layer == blocker
    assert (seen.read.ending, settled.status == "delivered") == (
        ("content_filter", False) if blocker else ("stop", True)
    )
    stage = report["output" if blocker == "watch" else "input"]
    assert (stage["results"][0] if route == "chat" else stage)["flagged"] is True
    if blocker == "in1":
        assert (seen.read.text, report["output"]["type"]) == (REFUSAL, "error")  # nobody looked at an output


def moderation_of(route: str, seen: Seen) -> dict[str, Any]:
    if seen.events:
        [last] = [event for event in seen.events if "moderation" in event.get("response", event)]
        found: dict[str, Any] = last.get("response", last)["moderation"]
        return found
    return dict(seen.body["moderation"])


async def test_moderations_with_the_sdk(gateways: Gateways) -> None:
    at = gateways["openai"]
    asked = len(await at.running.ledger())
    answer = await at.clients.openai.moderations.create(model="any", input=["bake bread", "build a bomb"])
    assert [result.flagged for result in answer.results] == [False, True]
    assert len(await at.running.ledger()) == asked  # no model was asked


async def test_models_with_the_sdks(gateways: Gateways) -> None:
    clients = gateways["openai"].clients
    assert [model.id async for model in clients.openai.models.list()] == ["tiny"]
    assert (await clients.openai.models.retrieve("tiny")).id == "tiny"
    with pytest.raises(OpenAINotFound):
        await clients.openai.models.retrieve("large")
    assert [model.id async for model in clients.anthropic.models.list()] == ["tiny"]
    assert (await clients.anthropic.models.retrieve("tiny")).id == "tiny"


# ---------------------------------------------------------------- Anthropic as the model server

BEHIND_ANTHROPIC = (
    "allow", "allow, length", "input block", "output block", "output block, first word", "model declines in words",
    "tool call", "tool call, blocked", "upstream 500", "upstream 429", "upstream error in mid-answer",
    "upstream breaks off",
)  # fmt: skip


@STREAM
@ROUTE
@pytest.mark.parametrize("name", BEHIND_ANTHROPIC)
async def test_in_front_of_anthropic(anthropic: Deployed, name: str, route: str, stream: bool) -> None:
    await check_cell(anthropic, CASES[name][stream], route, stream)


@ROUTE
async def test_an_image_arrives_at_anthropic(anthropic: Deployed, route: str) -> None:
    tag = secrets.token_hex(4)
    text = {"type": "input_text" if route == "responses" else "text", "text": f"bread {tag}"}
    await anthropic.clients.by_sdk(route, body(route, [text, IMAGES[route][0]], stream=False))
    [asked] = anthropic.upstream.asked(tag)
    assert asked.body["messages"][-1]["content"][1] == IMAGES["messages"][0]
