"""One request and every event that happened to it."""

from collections.abc import Iterable
from dataclasses import dataclass

from alignstack.core.events import Event, LayerError, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Complete when its last event is an `OutcomeEvent`."""

    id: str
    stack: str
    """Fingerprint of the stack that ran."""
    stack_source: str = ""
    """Where the stack came from (a file's absolute path, or `built-in`), so that a replay can load it again."""
    started: float = 0.0
    """Seconds since 1970."""
    censored: bool = False
    """True when layers were skipped after a block: numbers computed from it must say so."""
    events: tuple[Event, ...] = ()

    @property
    def request(self) -> RequestEvent:
        return next(event for event in self.events if isinstance(event, RequestEvent))

    @property
    def outcome(self) -> OutcomeEvent | None:
        last = self.events[-1] if self.events else None
        if isinstance(last, OutcomeEvent):
            return last
        return next((event for event in self.events if isinstance(event, OutcomeEvent)), None)

    @property
    def generation(self) -> ModelEvent | None:
        """The last thing the model said, if it was asked."""
        return next((event for event in reversed(self.events) if isinstance(event, ModelEvent)), None)

    @property
    def layer_events(self) -> tuple[LayerEvent | LayerError, ...]:
        return tuple(event for event in self.events if isinstance(event, LayerEvent | LayerError))

    @property
    def stopped_by(self) -> LayerEvent | LayerError | None:
        """The first layer that blocked or cut what the client gets, if one did."""
        outcome = self.outcome
        if outcome is None or outcome.status not in ("blocked", "cut"):
            return None
        enforced = (event for event in self.layer_events if event.mode == "enforce")
        return next((event for event in enforced if _said(event) == "block" or _fails_closed(event)), None)


WEIGHT = ("block", "error", "modify", "escalate", "allow", "abstain")
"""Of several things that one layer said, the one that counts stands first."""


def verdicts(trace: Trace, names: Iterable[str]) -> dict[str, str]:
    """What each layer of `names` said: a verdict's action, `error` for a fault, `abstain` if it saw nothing. Of a layer
    that looked several times what weighs most."""
    said: dict[str, str] = dict.fromkeys(names, "abstain")
    for event in trace.layer_events:
        if event.layer in said:
            said[event.layer] = min(said[event.layer], _said(event), key=WEIGHT.index)
    return said


def _said(event: LayerEvent | LayerError) -> str:
    return "error" if isinstance(event, LayerError) else event.verdict.action


def _fails_closed(event: LayerEvent | LayerError) -> bool:
    return isinstance(event, LayerError) and event.on_error == "block"
