"""Traces as rows for the terminal."""

import time

from alignstack.core.events import Event, LayerError, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.messages import last_user_text
from alignstack.core.trace import Trace
from alignstack.report.escape import excerpt
from alignstack.report.words import seconds

HEADINGS = ("Event", "What happened", "Time")


def rows(trace: Trace) -> list[tuple[str, ...]]:
    """One row for each event."""
    return [row(event) for event in trace.events]


def row(event: Event) -> tuple[str, ...]:
    match event:
        case RequestEvent():
            return "request", excerpt(last_user_text(event.messages)), ""
        case LayerEvent():
            return _name(event), _verdict(event), seconds(event.seconds)
        case LayerError():
            return _name(event), f"{event.fault}: {event.message} → {event.on_error}", seconds(event.seconds)
        case ModelEvent():
            said = excerpt(event.text) or event.message
            return (
                f"model {event.model}",
                f"{event.finish}, {event.output_tokens} tokens: {said}",
                seconds(event.seconds),
            )
        case OutcomeEvent():
            return "outcome", f"{event.status}: {excerpt(event.delivered)}", seconds(event.seconds)


def summary(trace: Trace) -> tuple[str, ...]:
    """One row for a whole trace."""
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(trace.started))
    status: str = trace.outcome.status if trace.outcome else "unfinished"
    if trace.stopped_by:
        status = f"{status} by {trace.stopped_by.layer}"
    return trace.id, started, status, excerpt(last_user_text(trace.request.messages), 60)


def _name(event: LayerEvent | LayerError) -> str:
    return f"{event.phase}: {event.layer}" + (" (shadow)" if event.mode == "shadow" else "")


def _verdict(event: LayerEvent) -> str:
    verdict = event.verdict
    score = f" at {verdict.score:.2f}" if verdict.score is not None else ""
    limit = f" (blocks from {verdict.threshold:.2f})" if verdict.threshold is not None else ""
    hazard = f" {verdict.hazard}" if verdict.hazard else ""
    return f"{verdict.action}{hazard}{score}{limit}" + (f": {verdict.reason}" if verdict.reason else "")
