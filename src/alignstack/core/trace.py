"""One request and every event that happened to it."""

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
        return next((event for event in self.events if isinstance(event, OutcomeEvent)), None)

    @property
    def generation(self) -> ModelEvent | None:
        """The last thing the model said, if it was asked."""
        return next((event for event in reversed(self.events) if isinstance(event, ModelEvent)), None)

    @property
    def layer_events(self) -> tuple[LayerEvent | LayerError, ...]:
        return tuple(event for event in self.events if isinstance(event, LayerEvent | LayerError))
