import json
import math
from types import MappingProxyType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from alignstack.core.events import LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.layer import Scope
from alignstack.core.messages import Message, ToolCall
from alignstack.core.trace import Trace
from alignstack.core.verdict import Span, Verdict
from alignstack.store.codec import TRACE, decode, encode, encode_trace

SCOPE = TypeAdapter(Scope)


def test_sets_are_written_in_order_so_that_equal_values_are_equal_bytes() -> None:
    names = [f"h{i}" for i in range(50)]
    scope = Scope(hazards=frozenset(reversed(names)))
    line = encode(SCOPE, scope)
    assert json.loads(line)["hazards"] == sorted(names)
    assert decode(SCOPE, line, "here") == scope


TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


def of(kind: type, **fields: Any) -> st.SearchStrategy[Any]:
    return st.builds(kind, **fields)


CALL = of(ToolCall, id=TEXT, name=TEXT, arguments=TEXT)
MESSAGE = of(Message, role=st.just("user"), content=TEXT, parts=TEXT, calls=st.tuples(CALL), media=st.tuples(TEXT))
VERDICT = of(
    Verdict, action=st.just("modify"), score=st.none() | NUMBER, categories=st.dictionaries(TEXT, NUMBER, max_size=2),
    spans=st.tuples(of(Span, start=st.integers(0, 2**60), end=st.just(9))), messages=st.none() | st.tuples(MESSAGE),
    text=st.none() | TEXT, reason=TEXT,
)  # fmt: skip
TRACES = of(
    Trace, id=TEXT, stack=TEXT, started=NUMBER, censored=st.booleans(),
    events=st.tuples(
        of(RequestEvent, messages=st.tuples(MESSAGE, MESSAGE), caller=TEXT),
        of(LayerEvent, layer=TEXT, phase=st.just("request"), mode=st.just("shadow"), verdict=VERDICT, version=TEXT,
           input_sha256=TEXT, at_token=st.none() | st.integers(0, 9)),
        of(ModelEvent, model=TEXT, version=TEXT, input_sha256=TEXT, messages=st.just(()), text=TEXT,
           finish=st.just("stop"), usage=TEXT),
        of(OutcomeEvent, status=st.just("cut"), delivered=TEXT),
    ),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(TRACES)
def test_trace_written_fast_comes_back_equal(trace: Trace) -> None:
    assert decode(TRACE, encode_trace(trace), "here") == trace


def test_values_that_the_fast_encoder_does_not_hold_survive() -> None:
    for verdict in (
        Verdict(action="allow", score=math.inf),
        Verdict(action="allow", categories={"ncr": math.inf}),
        Verdict(action="allow", categories=MappingProxyType({"ncr": 0.5})),
    ):
        event = LayerEvent(layer="l", phase="request", mode="enforce", verdict=verdict, version="v", input_sha256="0")
        trace = Trace(id="a", stack="s", events=(event,))
        assert decode(TRACE, encode_trace(trace), "here") == trace
