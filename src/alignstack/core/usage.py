"""Who asks, what they may use, and what they used: the words of keys, limits and the ledger."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

Status = Literal["delivered", "refused", "blocked", "cut", "unavailable", "abandoned"]
"""How a request ended. `refused`: the model itself declined; `blocked` and `cut`: a layer did it; `abandoned`: the
client went away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one caller may use. None = no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Input and output together, counted when a request is admitted by what it may use at most."""
    concurrent: int | None = None
    """Requests under way at the same time."""
    tokens_per_day: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None
    """Days and months are those of UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key without its secret."""

    id: str
    """Public: what traces, ledger and commands call it."""
    name: str = ""
    admin: bool = False
    """May read metrics and usage of all keys."""
    allowance: Allowance | None = None
    """In place of the gateway's default."""
    created: float = 0.0
    """Seconds since 1970."""
    expires: float | None = None
    revoked: float | None = None
    suspended_until: float | None = None

    def usable(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


ANYONE = Key(id="anonymous", admin=True)
"""Who asks a gateway that has no keys and so listens on this machine alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request was let in; written before the model is asked."""

    id: str
    """The trace's."""
    at: float
    """Seconds since 1970."""
    key: str
    """`Key.id`."""
    person: str = ""
    """SHA-256 of the `safety_identifier` that the client sent, if any."""
    route: str = ""
    """`chat`, `responses`, `messages`."""
    model: str = ""
    tokens: int = 0
    """The most that it may use, input and output."""
    usd: float = 0.0
    """The most that it may cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """It ended; written before the client has the whole answer."""

    id: str
    at: float
    status: Status
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    layer: str = ""
    """Who blocked."""
    hazard: str = ""
    seconds: float = 0.0


class BudgetSpent(Exception):
    """The budget of a key does not cover a request."""

    def __init__(self, what: str, resets_at: float) -> None:
        super().__init__(what)
        self.resets_at = resets_at
        """Seconds since 1970."""


class Ledger(Protocol):
    """Append-only. What is awaited is on disk, in full and once."""

    async def admit(self, entry: Admitted, allowance: Allowance) -> None: ...  # raises BudgetSpent
    async def settle(self, entry: Settled) -> None: ...
    async def ping(self) -> None: ...  # raises Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """One line of `alignstack usage`."""

    key: str
    requests: int = 0
    delivered: int = 0
    refused: int = 0
    blocked: int = 0
    """Cut streams are among them."""
    failed: int = 0
    """Unavailable, abandoned, or never settled because the process was killed."""
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    people: int = field(default=0)
    """Distinct safety identifiers."""
