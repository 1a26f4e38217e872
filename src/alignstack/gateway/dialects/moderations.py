"""OpenAI's moderations: `/v1/moderations`, and the `moderation` object that chat completions carry on request.

Scores are those of the stack's layers. Categories are the hazard ids of the policy and OpenAI's own names, which a
hazard fills as its `maps.openai_moderation` in the policy says.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import msgspec

from alignstack.core.events import Event, LayerError, LayerEvent
from alignstack.core.layer import Phase
from alignstack.core.messages import Conversation, Message
from alignstack.core.trace import Trace
from alignstack.gateway.call import bad_request
from alignstack.gateway.dialects.body import encode, fitting
from alignstack.gateway.dialects.fields import parse
from alignstack.policy.model import OpenAIName, Policy

OPENAI_NAMES: tuple[str, ...] = get_args(OpenAIName)
MAX_INPUTS = 128
"""Texts in one request; each one is a run of the request layers. Chosen by hand."""

Seen = Literal["text", "image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What the layers said of one text."""

    scores: Mapping[str, float] = field(default_factory=dict)
    """Hazard id to score in [0, 1], the highest that any layer gave."""
    flagged: bool = False
    """A layer that enforces would have blocked it."""
    hazards: frozenset[str] = frozenset()
    """What it was blocked for; empty when no layer named a hazard."""
    looked: bool = False
    """At least one layer did look. False: nothing is known, least of all that the text is harmless."""


def scored(events: Iterable[Event], phases: tuple[Phase, ...] = ("request",), *, shadows: bool = False) -> Scored:
    """Sums up the verdicts of `phases`. With `shadows` the layers in shadow mode flag too."""
    scores: dict[str, float] = {}
    hazards: set[str] = set()
    flagged = looked = False
    for event in events:
        if not isinstance(event, LayerEvent | LayerError) or event.phase not in phases:
            continue
        acts = shadows or event.mode == "enforce"
        if isinstance(event, LayerError):
            flagged |= acts and event.on_error == "block"
            continue
        looked |= event.verdict.action != "abstain"
        for hazard, score in _scores(event).items():
            scores[hazard] = max(score, scores.get(hazard, 0.0))
        if acts and event.verdict.action == "block":
            flagged = True
            hazards |= _blamed(event)
    return Scored(scores=scores, flagged=flagged, hazards=frozenset(hazards), looked=looked)


def _scores(event: LayerEvent) -> dict[str, float]:
    """A block without a score counts as certain."""
    verdict = event.verdict
    scores = dict(verdict.categories)
    if verdict.hazard is not None:
        said = verdict.score if verdict.score is not None else float(verdict.action == "block")
        scores[verdict.hazard] = max(said, scores.get(verdict.hazard, 0.0))
    return {hazard: min(max(score, 0.0), 1.0) for hazard, score in scores.items()}


def _blamed(event: LayerEvent) -> set[str]:
    verdict = event.verdict
    named = {verdict.hazard} if verdict.hazard is not None else set()
    limit = verdict.threshold
    return named | {hazard for hazard, score in verdict.categories.items() if limit is not None and score >= limit}


class _Part(msgspec.Struct):
    type: Literal["text", "image_url"]
    text: str | None = None


class _Asked(msgspec.Struct):
    input: str | Annotated[list[str | _Part], msgspec.Meta(min_length=1, max_length=MAX_INPUTS)]
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request for scores."""

    inputs: tuple[Conversation, ...]
    """Each is judged on its own: a string of the list, or all parts of it together."""
    model: str = ""
    """As the client wrote it."""


def decode(body: bytes) -> Question:
    """Raises Refused (400)."""
    asked = fitting(parse(body), _Asked)
    given = [asked.input] if isinstance(asked.input, str) else asked.input
    texts = [item for item in given if isinstance(item, str)]
    parts = [item for item in given if isinstance(item, _Part)]
    if texts and parts:
        raise bad_request("'input' should be strings or parts, not both.", param="input")
    if parts:
        return Question(inputs=(_from_parts(parts),), model=asked.model)
    return Question(inputs=tuple((Message(role="user", content=text),) for text in texts), model=asked.model)


def _from_parts(parts: list[_Part]) -> Conversation:
    for number, part in enumerate(parts):
        if part.type == "text" and part.text is None:
            raise bad_request("Missing required parameter: 'text'.", param=f"input[{number}].text")
    text = "\n".join(part.text for part in parts if part.text is not None)
    media = tuple(part.type for part in parts if part.type != "text")
    return (Message(role="user", content=text, media=media),)


def whole(results: Iterable[Scored], *, id: str, model: str, policy: Policy) -> bytes:
    """`id` is the trace id or another one that is unique."""
    shown = [_result(result, _categories(result, policy)) for result in results]
    return encode({"id": f"modr-{id}", "model": model, "results": shown})


def _categories(result: Scored, policy: Policy) -> dict[str, tuple[bool, float]]:
    """Every hazard of the policy and every name of OpenAI's: is it flagged, and its score."""
    known = {name: (name in result.hazards, result.scores.get(name, 0.0)) for name in {*policy.hazards, *result.scores}}
    theirs = {name: known.get(name, (False, 0.0)) for name in OPENAI_NAMES}
    for name, hazard in policy.hazards.items():
        for other in hazard.maps.openai_moderation:
            flagged, score = theirs[other]
            theirs[other] = (flagged or known[name][0], max(score, known[name][1]))
    return known | theirs


def _result(result: Scored, categories: Mapping[str, tuple[bool, float]]) -> dict[str, Any]:
    return {
        "flagged": result.flagged,
        "categories": {name: flagged for name, (flagged, _) in categories.items()},
        "category_scores": {name: score for name, (_, score) in categories.items()},
        "category_applied_input_types": {name: ["text"] for name in categories},
    }


def report(traces: Iterable[Trace], *, shadows: bool) -> dict[str, Any]:
    """The `moderation` object of one chat completion, whose choices have one trace each: the request is judged once,
    so the first trace's input is shown."""
    kept = list(traces)
    model = f"alignstack-{kept[0].stack[:12]}" if kept and kept[0].stack else "alignstack"
    asked = [scored(trace.events, ("request", "prompt"), shadows=shadows) for trace in kept[:1]]
    said = [scored(trace.events, ("output",), shadows=shadows) for trace in kept]
    return {"input": _stage(asked, "input", model), "output": _stage(said, "output", model)}


def _stage(results: list[Scored], stage: str, model: str) -> dict[str, Any]:
    if not any(result.looked or result.flagged for result in results):
        return {"type": "error", "code": "not_moderated", "message": f"No layer looked at the {stage}."}
    shown = [{"type": "moderation_result", "model": model, **_result(result, _own(result))} for result in results]
    return {"type": "moderation_results", "model": model, "results": shown}


def _own(result: Scored) -> dict[str, tuple[bool, float]]:
    names = sorted({*result.scores, *result.hazards})
    return {name: (name in result.hazards, result.scores.get(name, 0.0)) for name in names}
