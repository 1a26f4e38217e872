"""What one worker process keeps for all its requests: stores, limits, counters. Built once, closed at the end."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from alignstack.core.errors import Unavailable
from alignstack.core.ports import Clock
from alignstack.core.usage import Ledger
from alignstack.gateway.abuse import Monitor
from alignstack.gateway.background import Background
from alignstack.gateway.concurrency import Caps
from alignstack.gateway.deployment import Deployment
from alignstack.gateway.limits import Limits
from alignstack.store.keys import KeyRing
from alignstack.store.traces import SqliteTraces
from alignstack.store.writer import Writer
from alignstack.telemetry.otel import Spans
from alignstack.telemetry.prometheus import Metrics

PATIENCE_S = 2.0
"""That the store may take before the gateway calls itself not ready; chosen by hand."""


class Ids:
    """32 hex digits each: milliseconds since 1970, so that newer traces sort behind older ones, then 80 random bits."""

    DRAWN = 4000
    """Random bytes had at once: asking the system for each id costs more than everything else about it."""

    def __init__(self, draw: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._draw = draw
        self._bytes, self._used = b"", 0

    def __call__(self, now: float) -> str:
        """`now`: seconds since 1970."""
        if self._used + 10 > len(self._bytes):
            self._bytes, self._used = self._draw(self.DRAWN), 0
        self._used += 10
        return f"{int(now * 1000):012x}{self._bytes[self._used - 10 : self._used].hex()}"


@dataclass(kw_only=True)
class Services:
    """Everything but the deployment is the same for the life of the process."""

    deployment: Deployment
    clock: Clock
    ring: KeyRing
    limits: Limits
    caps: Caps
    ledger: Ledger
    traces: SqliteTraces
    metrics: Metrics
    monitor: Monitor
    background: Background
    writer: Writer
    spans: Spans | None = None
    ids: Callable[[float], str] = field(default_factory=Ids)
    draining: bool = False
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock.now()

    def adopt(self, deployment: Deployment) -> None:
        """New requests meet this one."""
        self.deployment = deployment
        for held in (self.limits, self.caps, self.monitor):
            held.adopt(deployment.settings)

    async def problem(self) -> str:
        """Why no request can be taken now; empty when one can. Anyone may ask, so it names no place."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.ledger.ping()
                await self.writer.run(lambda connection: connection.execute("SELECT 1").fetchone())
        except (TimeoutError, Unavailable):
            return "the store does not answer"
        return ""
