"""How often one caller may ask.

Stops: floods, and attacks that need many attempts, as far as the attempts come from one caller.
Does not stop: a single harmful request, patient attackers, and attackers with many keys. With the default storage every
process counts for itself: four workers admit four times the limit; `storage: redis://…` counts once for all.
"""

from pathlib import Path
from typing import Annotated, Literal

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
        self._limits = _limits(config)
        self._per_caller = config.per == "caller"
        self._limiter = _limiter(config.storage, name)
        self.info = LayerInfo(
            name=name,
            use="rate_limit",
            phases=("request",),
            kind="veto",
            version=digest("rate_limit", config.model_dump(mode="json", exclude={"storage"})),
            scope=Scope(hazards=hazards),
            stateful=True,
        )

    async def check(self, view: View) -> Verdict:
        if view.audit:
            return Verdict(action="abstain", reason="audits are not rate-limited")
        who = (view.caller or "anonymous") if self._per_caller else "everyone"
        full = await self._exceeded(self.info.name, who)
        if full is None:
            return Verdict(action="allow")
        return Verdict(action="block", reason=f"the limit of {full.amount} per {full.GRANULARITY.name} is used up")

    async def _exceeded(self, *key: str) -> RateLimitItem | None:
        """The limit that is used up, if any. All are tested before any is hit, so that a request which one of them
        blocks uses up none; `hit` decides, so that requests at the same instant cannot pass together."""
        for limit in self._limits:
            if not await self._limiter.test(limit, *key):
                return limit
        for limit in self._limits:
            if not await self._limiter.hit(limit, *key):
                return limit
        return None


def _limits(config: RateLimitConfig) -> tuple[RateLimitItem, ...]:
    kinds = (
        (RateLimitItemPerSecond, config.burst),
        (RateLimitItemPerMinute, config.requests_per_minute),
        (RateLimitItemPerHour, config.requests_per_hour),
    )
    return tuple(kind(amount) for kind, amount in kinds if amount is not None)


def _limiter(storage: str, name: str) -> MovingWindowRateLimiter:
    try:
        return MovingWindowRateLimiter(storage_from_string(f"async+{storage}"))
    except (ConfigurationError, NotImplementedError, ValueError, KeyError) as error:
        # The address may hold a password: only its scheme is named.
        what = (
            f"cannot use a {storage.partition(':')[0]!r} storage ({type(error).__name__}); use memory://, or "
            "redis://HOST:PORT with coredis installed (`pip install 'alignstack[redis]'`)"
        )
        raise ConfigError([Problem(where=f"layer {name!r}: storage", what=what)]) from None
