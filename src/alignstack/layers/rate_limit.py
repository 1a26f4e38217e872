"""How often one caller may ask.

Stops: floods, and attacks that need many attempts, as far as the attempts come from one caller.
Does not stop: a single harmful request, patient attackers, and attackers with many keys. With the default storage every
process counts for itself: four workers admit four times the limit; `storage: redis://…` counts once for all. A Redis
that does not answer is an error, and `on_error` of the layer decides.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Protocol

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import ConfigurationError
from limits.storage import storage_from_string
from pydantic import BaseModel, ConfigDict, Field, model_validator

from alignstack.core.errors import ConfigError, Problem
from alignstack.core.layer import LayerInfo, Phase, Scope, View
from alignstack.core.messages import digest
from alignstack.core.verdict import Verdict
from alignstack.policy import Policy

REDIS_WAIT_S = 2.0
"""Seconds for one answer of Redis, and for a connection; chosen by hand, far more than a healthy one takes."""

Count = Annotated[int, Field(ge=1, le=1_000_000)]


class RateLimitConfig(BaseModel):
    """Keys in the stack file. At least one limit must be given; a request must pass all that are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: Count | None = None
    requests_per_hour: Count | None = None
    burst: Count | None = None
    """Requests in any one second."""
    per: Literal["caller", "everyone"] = "caller"
    """Whose requests are counted together. Requests without a caller count as one caller."""
    storage: str = Field(default="memory://", repr=False)
    """`memory://`, or `redis://HOST:PORT` to count across processes."""

    @model_validator(mode="after")
    def _some_limit(self) -> "RateLimitConfig":
        if not _limits(self):
            raise ValueError("give at least one of requests_per_minute, requests_per_hour, burst")
        return self


class RateLimit:
    """Moving windows: no trick with the clock's full minute doubles the limit. Requests that were blocked do not
    count. Abstains in audits, which would otherwise measure how fast they run."""

    Config = RateLimitConfig

    def __init__(
        self,
        config: RateLimitConfig,
        *,
        name: str,
        phase: Phase | None,
        hazards: frozenset[str] | None,
        policy: Policy,
        base: Path = Path(),
    ) -> None:
        if phase not in (None, "request"):
            where, what = f"layer {name!r}: phase", f"rate_limit works in request, not {phase!r}"
            raise ConfigError([Problem(where=where, what=what)])
        self._per_caller = config.per == "caller"
        local = config.storage.startswith("memory:")
        self._windows: Windows = InMemory(_limits(config)) if local else _shared(_limits(config), config.storage, name)
        self.info = LayerInfo(
            name=name,
            use="rate_limit",
            phases=("request",),
            kind="veto",
            version=digest("rate_limit", config.model_dump(mode="json", exclude={"storage"})),
            scope=Scope(hazards=hazards),
            stateful=True,
            quick=local,
        )

    async def check(self, view: View) -> Verdict:
        if view.audit:
            return Verdict(action="abstain", reason="audits are not rate-limited")
        who = (view.caller or "anonymous") if self._per_caller else "everyone"
        full = await self._windows.exceeded(who)
        if full is None:
            return Verdict(action="allow")
        return Verdict(action="block", reason=f"the limit of {full.amount} per {full.GRANULARITY.name} is used up")


class Windows(Protocol):
    """Who asked when."""

    async def exceeded(self, who: str) -> RateLimitItem | None:
        """The limit that is used up, if any; otherwise the request is counted."""


class InMemory:
    """For one process: the moments of each caller's last requests, as many as the largest limit needs. (The storage of
    `limits` starts a task and a thread for every request, to forget old ones.)"""

    def __init__(self, limits: tuple[RateLimitItem, ...], now: Callable[[], float] = time.monotonic) -> None:
        self._limits = [(limit, limit.amount, limit.get_expiry()) for limit in limits]
        self._keep = max(limit.amount for limit in limits)
        self._longest = max(limit.get_expiry() for limit in limits)
        self._now = now
        self._callers: OrderedDict[str, list[float]] = OrderedDict()
        """Who was admitted last stands last."""

    async def exceeded(self, who: str) -> RateLimitItem | None:
        now = self._now()
        self._forget(now - self._longest)
        moments = self._callers.setdefault(who, [])
        for limit, amount, seconds in self._limits:
            if len(moments) >= amount and moments[-amount] > now - seconds:
                return limit
        moments.append(now)
        self._callers.move_to_end(who)
        if len(moments) > 2 * self._keep:
            del moments[: -self._keep]
        return None

    def _forget(self, before: float) -> None:
        """At most two callers, so that no request waits while thousands are forgotten and yet none stay."""
        for _ in range(min(2, len(self._callers))):
            who, moments = next(iter(self._callers.items()))
            if moments[-1] > before:
                return
            del self._callers[who]


class Shared:
    """For all processes that use the same storage, to the request: `hit` decides there."""

    def __init__(self, limits: tuple[RateLimitItem, ...], limiter: MovingWindowRateLimiter, name: str) -> None:
        self._limits, self._limiter, self._name = limits, limiter, name

    async def exceeded(self, who: str) -> RateLimitItem | None:
        """All are tested before any is hit, so that a request which one of them blocks uses up none."""
        for limit in self._limits if len(self._limits) > 1 else ():
            if not await self._limiter.test(limit, self._name, who):
                return limit
        for limit in self._limits:
            if not await self._limiter.hit(limit, self._name, who):
                return limit
        return None


def _limits(config: RateLimitConfig) -> tuple[RateLimitItem, ...]:
    kinds = (
        (RateLimitItemPerSecond, config.burst),
        (RateLimitItemPerMinute, config.requests_per_minute),
        (RateLimitItemPerHour, config.requests_per_hour),
    )
    return tuple(kind(amount) for kind, amount in kinds if amount is not None)


def _shared(limits: tuple[RateLimitItem, ...], storage: str, name: str) -> Shared:
    redis: dict[str, float | str | bool] = {
        "implementation": "redispy",
        "socket_timeout": REDIS_WAIT_S,
        "socket_connect_timeout": REDIS_WAIT_S,
    }
    try:
        found = storage_from_string(f"async+{storage}", **redis if storage.startswith("redis") else {})
        return Shared(limits, MovingWindowRateLimiter(found), name)
    except (ConfigurationError, NotImplementedError, ValueError, KeyError) as error:
        # The address may hold a password: only its scheme is named.
        what = (
            f"cannot use a {storage.partition(':')[0]!r} storage ({type(error).__name__}); use memory://, or "
            "redis://HOST:PORT with redis-py installed (`pip install 'alignstack[redis]'`)"
        )
        raise ConfigError([Problem(where=f"layer {name!r}: storage", what=what)]) from None
