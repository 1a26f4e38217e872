"""The `serve` part of a stack file: everything about the gateway that does not decide what a client receives."""

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from alignstack.core.errors import ConfigError
from alignstack.core.usage import Allowance
from alignstack.engine.stack import Stack
from alignstack.policy.strict import expand_env, problems
from alignstack.store.open_ledger import POSTGRES, SQLITE

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Dollars = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Action = Literal["slow_down", "shadow_sample", "suspend", "webhook"]

STORAGES = ("memory://", "redis://", "rediss://")
LEDGERS = (SQLITE, *POSTGRES)


class Keys(BaseModel):
    """A mapping in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitKeys(Keys):
    """What each key may use, unless it was made with limits of its own."""

    requests_per_minute: Count | None = Field(default=None, description="no limit unless given")
    tokens_per_minute: Count | None = Field(
        default=None, description="input and output together; a request counts by the most that it may use"
    )
    concurrent: Count | None = Field(default=None, description="requests under way at the same time")
    tokens_per_day: Count | None = Field(default=None, description="a day of UTC")
    usd_per_day: Dollars | None = Field(default=None, description="US dollars, a day of UTC")
    usd_per_month: Dollars | None = Field(default=None, description="US dollars, a month of UTC")

    @cached_property
    def allowance(self) -> Allowance:
        return Allowance(**self.model_dump())


class PersonLimitKeys(Keys):
    """What each `safety_identifier` of a key may use."""

    requests_per_minute: Count | None = Field(default=None, description="no limit unless given")
    tokens_per_minute: Count | None = Field(default=None, description="as in `limits`")


class TraceKeys(Keys):
    """What is kept of requests."""

    keep_days: float = Field(default=30, gt=0, allow_inf_nan=False, description="older traces are deleted")
    content: bool = Field(default=True, description="`false`: verdicts are kept, what was said is not")
    all_layers: float = Field(
        default=0.0, ge=0, le=1, description="share of requests on which every layer is also run as a shadow"
    )


class ActionKeys(Keys):
    """What follows a signal, besides a line in the log."""

    block_rate: tuple[Action, ...] = Field(default=(), description="too large a share of a key's requests is blocked")
    streak: tuple[Action, ...] = Field(default=(), description="too many blocked requests one after another")
    spike: tuple[Action, ...] = Field(default=(), description="far more requests than the key sent before")

    @property
    def every(self) -> frozenset[Action]:
        return frozenset((*self.block_rate, *self.streak, *self.spike))


class AbuseKeys(Keys):
    """When a key's use looks like abuse, and what is then done."""

    window_minutes: float = Field(default=10, ge=2, le=1440, description="how far back is looked")
    min_requests: int = Field(default=20, ge=1, description="fewer requests say nothing about rate and spike")
    block_rate: float = Field(
        default=0.5, gt=0, le=1, description="share blocked, by the lower end of its 95% interval"
    )
    streak: int = Field(default=5, ge=2, description="blocked requests one after another")
    spike: float = Field(
        default=10.0, gt=1, allow_inf_nan=False, description="times the key's own earlier requests a minute"
    )
    actions: ActionKeys = Field(default=ActionKeys(), description="what follows each signal; a line in the log")
    slow_down_seconds: Seconds = Field(default=2.0, description="`slow_down`: each request of the key waits so long")
    suspend_minutes: float = Field(
        default=60, gt=0, allow_inf_nan=False, description="`suspend`: the key is refused with 403 for so long"
    )
    webhook: str | None = Field(
        default=None, repr=False, pattern="^https?://", description="`webhook`: where a JSON message is sent"
    )
    webhook_secret: str | None = Field(
        default=None, min_length=1, repr=False, description="signs messages: `x-alignstack-signature`, HMAC-SHA256"
    )

    @model_validator(mode="after")
    def _has_webhook(self) -> "AbuseKeys":
        if "webhook" in self.actions.every and self.webhook is None:
            raise ValueError("an action is 'webhook'; say where to with the key `webhook`")
        return self


class TelemetryKeys(Keys):
    """What is measured for others."""

    otlp_endpoint: str | None = Field(
        default=None, pattern="^https?://", repr=False, description="an OpenTelemetry collector; none"
    )
    content: bool = Field(default=False, description="spans hold what was said")
    prometheus: bool = Field(default=True, description="`/metrics` is served")


class Settings(Keys):
    """The mapping `serve` of a stack file."""

    max_body_bytes: int = Field(default=10 * 1024 * 1024, ge=1024, description="a larger request is refused with 413")
    max_text_chars: int = Field(default=400_000, ge=1, description="text of one request; more is refused with 413")
    head_seconds: float = Field(default=10, gt=0, le=3600, description="time for a client to send its headers")
    body_seconds: float = Field(default=30, gt=0, le=3600, description="time for a client to send its body")
    block_seconds: Seconds = Field(
        default=0.0,
        description="a blocked answer leaves no sooner than so long after its request, so that time does not tell who "
        "blocked",
    )
    limits: LimitKeys = Field(default=LimitKeys(), description="of each key; see below")
    person_limits: PersonLimitKeys = Field(default=PersonLimitKeys(), description="of each `safety_identifier`")
    storage: str = Field(
        default="memory://",
        repr=False,
        description="`memory://`, each process counts for itself; `redis://HOST:PORT`, one count for all",
    )
    ledger: str | None = Field(
        default=None,
        repr=False,
        description="`postgresql://…` or `sqlite://PATH`; a file in the data folder of this machine",
    )
    traces: TraceKeys = Field(default=TraceKeys(), description="see below")
    moderation: Literal["report", "client"] = Field(
        default="report",
        description="what a request's own `moderation: score` does: `report` adds what the layers say to the answer; "
        "`client` also has all of them act as shadows, for deployments whose clients decide by themselves",
    )
    image_urls: Literal["public", "data", "any"] = Field(
        default="public", description="`data`: only images inside the request; `any`: also private addresses"
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="names this gateway answers to; those of the machine"
    )
    allowed_origins: tuple[str, ...] = Field(default=(), description="web pages that may call it; none")
    abuse: AbuseKeys = Field(default=AbuseKeys(), description="see below")
    telemetry: TelemetryKeys = Field(default=TelemetryKeys(), description="see below")
    drain_seconds: Seconds = Field(default=30.0, description="time for running requests when the gateway is stopped")
    log: Literal["text", "json"] = Field(default="text", description="the form of log lines")

    @field_validator("storage")
    @classmethod
    def _storage(cls, value: str) -> str:
        return _one_of(value, STORAGES)

    @field_validator("ledger")
    @classmethod
    def _ledger(cls, value: str | None) -> str | None:
        return value if value is None else _one_of(value, LEDGERS)


def _one_of(address: str, schemes: tuple[str, ...]) -> str:
    """Addresses may hold a password: the message does not repeat them."""
    if not address.startswith(schemes):
        raise ValueError(f"should start with {' or '.join(schemes)}")
    return address


def settings(stack: Stack) -> Settings:
    """The gateway's settings in a stack file. Raises ConfigError with every problem in them."""
    written: Any = stack.config.get("serve")
    data = expand_env({"serve": {} if written is None else written}, stack.source)["serve"]
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError(problems(error, stack.source, Settings, "serve")) from None
