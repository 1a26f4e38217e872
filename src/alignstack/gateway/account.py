"""What a request may use, used, and how it ended: from traces to ledger entries."""

import re
from collections.abc import Sequence
from itertools import chain

import msgspec

from alignstack.core.events import LayerError, LayerEvent, ModelEvent
from alignstack.core.messages import Conversation
from alignstack.core.ports import Sampling
from alignstack.core.trace import Trace
from alignstack.core.usage import Settled, Status
from alignstack.engine.check import blocks
from alignstack.redteam.judges.text import OPENINGS, opens_with, plain

BYTES_PER_TOKEN = 3
"""Of UTF-8. English has about four, code and other scripts have fewer; an estimate that is rather too high."""
PER_MESSAGE = 4
"""Tokens that chat templates add to a turn."""
ANSWER = 1024
"""Tokens reserved for an answer whose client sets no bound; chosen by hand."""
OPENING = 100
"""Characters in which an answer says that it declines."""
ASCII_OPENINGS = re.compile(
    rf"\W*(?:{'|'.join(OPENINGS)})".replace(" ", r"\s+").replace("'", "['`]"),
)
"""`opens_with(plain(…))` in one step, for text in lower case that is ASCII."""

WORST: tuple[Status, ...] = ("abandoned", "unavailable", "blocked", "cut", "refused", "delivered")
"""Of several answers to one request the first of these names it."""


def at_most(messages: Conversation, sampling: Sampling, n: int) -> tuple[int, int]:
    """Input and output tokens that a request may use: the output exactly where the client or the stack sets a bound,
    the input by a generous estimate, since the model's tokenizer is the model server's."""
    text = sum(len(message.content.encode(errors="replace")) for message in messages) + len(sampling.more)
    asked = text // BYTES_PER_TOKEN + PER_MESSAGE * (len(messages) + 1)
    return asked * n, (sampling.max_tokens or ANSWER) * n


def settled(traces: Sequence[Trace], *, asked: int, model: object, now: float, seconds: float) -> Settled:
    """One ledger entry for all answers to one request. `asked`: an estimate of the input tokens of one, for those that
    were broken off before the model server said."""
    tokens_in, tokens_out, usd = 0, 0, 0.0
    blocker: LayerEvent | LayerError | None = None
    for event in chain.from_iterable([trace.events for trace in traces]):
        if isinstance(event, LayerEvent):
            usd += event.verdict.cost
        elif isinstance(event, ModelEvent):
            counts = _counted(event, asked, model)
            tokens_in, tokens_out, usd = tokens_in + counts[0], tokens_out + counts[1], usd + counts[2]
            continue
        elif not isinstance(event, LayerError):
            continue
        if blocker is None and event.mode == "enforce" and blocks(event):
            blocker = event
    return Settled(
        id=traces[0].id,
        at=now,
        status=min(map(status, traces), key=WORST.index),
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        usd=usd,
        layer=blocker.layer if blocker else "",
        hazard=(blocker.verdict.hazard or "") if isinstance(blocker, LayerEvent) else "",
        seconds=seconds,
    )


def _counted(event: ModelEvent, asked: int, model: object) -> tuple[int, int, float]:
    """Input tokens, output tokens, US dollars. Whoever leaves before the end has used the model all the same."""
    broken_off = event.finish == "cancelled" or (event.finish == "unavailable" and event.text)
    if not broken_off or event.input_tokens:
        return event.input_tokens, event.output_tokens, event.cost
    return asked, event.output_tokens, price(model, asked, event.output_tokens)


def status(trace: Trace) -> Status:
    """Blocked by a layer and refused by the model are two things."""
    outcome = trace.outcome
    ended = outcome.status if outcome else "abandoned"
    return "refused" if ended == "delivered" and declined(trace) else ended


def declined(trace: Trace) -> bool:
    """Did the model itself decline? Its server says so, or its answer opens like a refusal."""
    said, outcome = trace.generation, trace.outcome
    if said is not None and (said.refused or said.finish == "content_filter"):
        return True
    return _declines(outcome.delivered[:OPENING]) if outcome else False


def _declines(opening: str) -> bool:
    if opening.isascii():
        return ASCII_OPENINGS.match(opening.lower()) is not None
    return opens_with(plain(opening), OPENINGS)


def price(model: object, input_tokens: int, output_tokens: int) -> float:
    """US dollars, by the model client's own prices; 0 for one without."""
    cost = getattr(model, "cost", None)
    return float(cost(input_tokens, output_tokens)) if cost else 0.0


def usage_details(event: ModelEvent | None) -> str:
    """`Ending.usage`: an object, whatever the server sent."""
    if event is None or not event.usage:
        return ""
    try:
        return event.usage if isinstance(msgspec.json.decode(event.usage), dict) else ""
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return ""
