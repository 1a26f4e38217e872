"""Any texts scored by one layer of a stack."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from alignstack.core.errors import DataError, NotFound, Unavailable
from alignstack.core.events import LayerError
from alignstack.core.layer import View
from alignstack.core.messages import user
from alignstack.core.ports import Clock
from alignstack.engine.check import check
from alignstack.engine.stack import Placed, Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One input line."""

    id: str | int
    text: str


def parse(raw: bytes) -> list[Text]:
    """JSON lines `{"id", "text"}`; blank lines and further keys are passed over. Raises DataError with every bad
    line."""
    texts: list[Text] = []
    problems: list[str] = []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.strip():
            try:
                texts.append(_text(line))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    if problems or not texts:
        raise DataError(
            "\n".join(problems) or 'no input; one JSON line {"id": …, "text": …} per text is read from stdin'
        )
    return texts


def _text(line: bytes) -> Text:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start + 1})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError('is not a JSON object such as {"id": "1", "text": "…"}')
    missing = [key for key in ("id", "text") if key not in row]
    if missing:
        raise ValueError(f"has no {' and no '.join(map(repr, missing))}")
    if not isinstance(row["text"], str) or not isinstance(row["id"], str | int):
        raise ValueError("'text' must be a text and 'id' a text or a whole number")
    return Text(id=row["id"], text=row["text"])


def scorer(stack: Stack, name: str) -> Placed:
    """The layer named `name`. Raises NotFound, with the nearest, unless the stack has such a layer, DataError for one
    that judges callers and not texts."""
    placed = stack.placed(name)
    if placed is None or placed.layer is None:
        raise NotFound("layer", name, [one.name for one in stack.layers if one.layer is not None])
    if placed.info.stateful:
        raise DataError(_no_scores(placed))
    return placed


async def scores(placed: Placed, texts: Sequence[Text], clock: Clock) -> AsyncIterator[dict[str, Any]]:
    """`{"id", "score", "hazards"}` for each text, in order: score in [0, 1], null where the layer abstains (an empty
    text, say); hazards by id with their own scores.
    Raises DataError for a layer that does not score, Unavailable for one that fails."""
    for one in texts:
        event = await check(placed, _view(placed, one.text), clock=clock)
        if isinstance(event, LayerError):
            raise Unavailable(f"layer {placed.name!r} failed on id {one.id!r}: {event.fault}: {event.message}")
        verdict = event.verdict
        if verdict.score is None and verdict.action != "abstain":
            raise DataError(_no_scores(placed))
        named = {verdict.hazard: verdict.score} if verdict.hazard and verdict.score is not None else {}
        yield {"id": one.id, "score": verdict.score, "hazards": dict(verdict.categories) or named}


def _no_scores(placed: Placed) -> str:
    return f"layer {placed.name!r} ({placed.info.use}) gives no scores; choose a classifier layer"


def _view(placed: Placed, text: str) -> View:
    """The text where the layer looks for it: as the request, or as the draft."""
    phase = placed.info.phases[0]
    if phase == "output":
        return View(phase=phase, messages=(), draft=text, audit=True)
    return View(phase=phase, messages=user(text), audit=True)
