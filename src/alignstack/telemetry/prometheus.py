"""What Prometheus reads. Every metric of the project is named here and nowhere else.

Labels come from the stack file, from the code and from HTTP status codes: never from what clients or models say, so
that their number is bounded and nothing private is in them.

With `PROMETHEUS_MULTIPROC_DIR` in the environment before this module is imported, the processes that share that folder
add up to one answer, whichever of them is asked.
"""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from alignstack.core.events import LayerError, LayerEvent, ModelEvent
from alignstack.core.trace import Trace

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Of what `Metrics.render` returns."""

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""In the environment: where several processes keep their numbers."""

ANSWER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Seconds: from a refusal before the model to a long answer; chosen by hand."""

LAYER_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)
"""Seconds: from a keyword search to a judge on another machine; chosen by hand."""

T = TypeVar("T")


class _Children(dict[tuple[str, ...], T]):
    """The children of one metric by their labels; the library's own look-up is too slow for every request."""

    def __init__(self, labels: Callable[..., T]) -> None:
        self.labels = labels

    def __missing__(self, labels: tuple[str, ...]) -> T:
        child = self[labels] = self.labels(*labels)
        return child


class Metrics:
    """The numbers of one process, or of all that share a folder."""

    def __init__(self, *, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._declare_requests()
        self._declare_layers()
        self._declare_process()
        self.build.labels(version, "{}.{}".format(*sys.version_info)).set(1)

    def _declare_requests(self) -> None:
        self.requests = self._counters("alignstack_requests", "Requests by how they ended.", "route", "status")
        self.rejected = self._counters(
            "alignstack_rejected", "Requests turned away before any layer, by HTTP status.", "route", "code"
        )
        self.seconds = self._histograms(
            "alignstack_request_seconds", "Until the answer was complete.", ANSWER_BUCKETS, "route"
        )
        self.first_token = Histogram(
            "alignstack_first_token_seconds", "Until text left.", buckets=ANSWER_BUCKETS, registry=self.registry
        )
        tokens = self._counters("alignstack_tokens", "Tokens that models read and wrote.", "direction")
        self.input_tokens, self.output_tokens = tokens["input",], tokens["output",]
        self.cost = Counter("alignstack_cost_usd", "US dollars that models and layers cost.", registry=self.registry)
        self.upstream_errors = self._counters(
            "alignstack_upstream_errors", "Answers that could not be had, by HTTP status.", "status"
        )

    def _declare_layers(self) -> None:
        self.layer_seconds = self._histograms(
            "alignstack_layer_seconds", "Of one look of a layer.", LAYER_BUCKETS, "layer", "phase"
        )
        self.verdicts = self._counters("alignstack_layer_verdicts", "What layers said.", "layer", "action", "mode")
        self.layer_errors = self._counters(
            "alignstack_layer_errors", "Layers that failed or were too slow.", "layer", "fault"
        )

    def _declare_process(self) -> None:
        self.in_flight = self._gauge("alignstack_in_flight", "Requests under way.")
        self.ledger_pending = self._gauge("alignstack_ledger_pending", "Ledger entries that are not yet on disk.")
        self.reloads = self._counters("alignstack_reloads", "Reloads of the stack file.", "result")
        self.signals = self._counters("alignstack_abuse_signals", "Keys that behaved oddly.", "signal")
        self.build = Gauge(
            "alignstack_build_info",
            "What runs.",
            ("version", "python"),
            multiprocess_mode="livemax",
            registry=self.registry,
        )
        if FOLDER not in os.environ:
            ProcessCollector(registry=self.registry)

    def observe(self, trace: Trace, *, route: str, status: str, first_token_s: float | None) -> None:
        """One finished request. `status` is a `core.usage.Status`; `first_token_s` is None when nothing was sent."""
        self.requests[route, status].inc()
        cost = 0.0
        for event in trace.events:
            if isinstance(event, LayerEvent):
                self.layer_seconds[event.layer, event.phase].observe(event.seconds)
                self.verdicts[event.layer, event.verdict.action, event.mode].inc()
                cost += event.verdict.cost
            elif isinstance(event, LayerError):
                self.layer_seconds[event.layer, event.phase].observe(event.seconds)
                self.layer_errors[event.layer, event.fault].inc()
            elif isinstance(event, ModelEvent):
                self._generation(event)
                cost += event.cost
        if (outcome := trace.outcome) is not None:
            self.seconds[route,].observe(outcome.seconds)
        if first_token_s is not None:
            self.first_token.observe(first_token_s)
        if cost > 0:
            self.cost.inc(cost)

    def _generation(self, event: ModelEvent) -> None:
        self.input_tokens.inc(max(event.input_tokens, 0))
        self.output_tokens.inc(max(event.output_tokens, 0))
        if event.finish == "unavailable":
            self.upstream_errors[str(event.status or "none"),].inc()

    def reject(self, *, route: str, code: int) -> None:
        """A request that never came to a layer: no key, over a limit, malformed. `code` is the HTTP status."""
        self.rejected[route, str(code)].inc()

    def enter(self) -> None:
        """A request begins; `leave` must follow."""
        self.in_flight.inc()

    def leave(self) -> None:
        self.in_flight.dec()

    def pending(self, entries: int) -> None:
        """How many ledger entries wait for the disk."""
        self.ledger_pending.set(entries)

    def reloaded(self, *, ok: bool) -> None:
        self.reloads["ok" if ok else "failed",].inc()

    def signal(self, name: str) -> None:
        """An abuse signal fired; `name` is one of the code's own."""
        self.signals[name,].inc()

    def render(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(_all_processes() if FOLDER in os.environ else self.registry)

    def _counters(self, name: str, text: str, *labels: str) -> _Children[Counter]:
        return _Children(Counter(name, text, labels, registry=self.registry).labels)

    def _histograms(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> _Children[Histogram]:
        return _Children(Histogram(name, text, labels, buckets=buckets, registry=self.registry).labels)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, multiprocess_mode="livesum", registry=self.registry)


def _all_processes() -> CollectorRegistry:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def forget(pid: int) -> None:
    """A worker process has ended: its gauges no longer count. What it counted stays."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]
