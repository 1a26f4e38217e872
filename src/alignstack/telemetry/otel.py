"""What happened to requests, as OpenTelemetry spans and metrics (`conventions`).

They are made of finished traces by a thread of their own: the request itself pays for one call.
"""

import logging
import queue
import threading

from alignstack.core.trace import Trace
from alignstack.telemetry.conventions import UNKNOWN, Finished, Upstream

WAITING = 2048
"""Finished requests that may wait for the thread; further ones are dropped and counted. Chosen by hand."""

log = logging.getLogger(__name__)


class Spans:
    """Sends to an OTLP/HTTP endpoint, such as `http://127.0.0.1:4318`. To be made in the process that serves, after any
    fork. Raises ConfigError where the `otel` extra is missing."""

    def __init__(self, endpoint: str, *, version: str, content: bool = False, metrics: bool = True) -> None:
        from alignstack.telemetry.otlp import Sender  # slow to import, and needs the extra

        self.dropped = 0
        self._sender = Sender(endpoint, version=version, content=content, metrics=metrics)
        self._waiting: queue.Queue[Finished | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="alignstack-otel", daemon=True)
        self._thread.start()

    def export(
        self,
        trace: Trace,
        *,
        route: str | None = None,
        status: str | None = None,
        upstream: Upstream = UNKNOWN,
        stream: bool = False,
        first_token_s: float | None = None,
        traceparent: str = "",
        tracestate: str = "",
    ) -> None:
        """Hands over one finished request and returns at once. `status` is a `core.usage.Status`, the outcome's unless
        given. The two headers are those of the request, as they came: a valid `traceparent` becomes the parent."""
        ended = trace.outcome.status if trace.outcome else "abandoned"
        headers = {"traceparent": traceparent, "tracestate": tracestate} if traceparent else {}
        finished = Finished(
            trace=trace,
            status=status or ended,
            route=route,
            upstream=upstream,
            stream=stream,
            first_token_s=first_token_s,
            headers=headers,
        )
        try:
            self._waiting.put_nowait(finished)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Sends what waits; takes a while when the endpoint hangs, up to a minute. Call it off the event loop."""
        self._waiting.put(None)
        self._thread.join()
        self._sender.close()

    def _work(self) -> None:
        while (finished := self._waiting.get()) is not None:
            try:
                self._sender.send(finished)
            except Exception:
                log.exception("trace %s could not be sent to OpenTelemetry", finished.trace.id)
