"""Signs that a key is being abused, and what follows.

Three signals, each on the requests of one key: too large a share of them is blocked; too many blocked ones come one
after another; far more come than before. Every signal is a line in the log; what else follows is the operator's choice.
A signal is a reason to look, not a proof: a red team looks like an attacker, and a launch like a spike.
"""

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Literal, Protocol

import aiohttp
import msgspec

from alignstack.attribution.intervals import wilson
from alignstack.core.errors import AlignstackError
from alignstack.core.ports import Clock
from alignstack.gateway.settings import AbuseKeys, Settings

MAX_ROWS = 2000
"""Requests of one key that one look reads, the newest; chosen by hand: judging them takes about 1 ms. A key that sends
more than that in two minutes has no spikes."""

INTERVAL = 10.0
"""Seconds between two looks; chosen by hand."""

WEBHOOK_SECONDS = 5.0
"""For a webhook to answer; chosen by hand."""

BLOCKED = frozenset({"blocked", "cut"})
DECIDED = BLOCKED | {"delivered", "refused"}
"""What became of a request says something about who sent it; that a server was down does not."""

log = logging.getLogger(__name__)


class Row(Protocol):
    """One request of a key, from the ledger."""

    @property
    def at(self) -> float: ...  # seconds since 1970
    @property
    def status(self) -> str: ...  # `core.usage.Status`, or empty while it is under way
    @property
    def hazard(self) -> str: ...


class Requests(Protocol):
    """The ledger's reading side: the newest `limit` requests of a key since then, oldest first."""

    async def recent(self, key: str, since: float, limit: int) -> Sequence[Row]: ...


class Suspends(Protocol):
    """The store of keys."""

    def suspend(self, key_id: str, until: float) -> None: ...  # raises NotFound, Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One sign, with the numbers that it rests on."""

    signal: Literal["block_rate", "streak", "spike"]
    requests: int
    """That were looked at."""
    blocked: int
    """Of them."""
    value: float
    """What was measured: the lower end of the share's 95% interval, requests in a row, times the earlier rate."""
    threshold: float
    """What the settings allow of it."""


def signals(rows: Sequence[Row], *, now: float, settings: AbuseKeys) -> list[Signal]:
    """The signs in the requests of one key, oldest first; only those of the last `window_minutes` count."""
    start = now - settings.window_minutes * 60
    window = [row for row in rows if start <= row.at <= now]
    found = (_block_rate(window, settings), _streak(window, settings), _spike(window, start, now, settings))
    return [signal for signal in found if signal is not None]


def _block_rate(window: Sequence[Row], settings: AbuseKeys) -> Signal | None:
    decided = [row for row in window if row.status in DECIDED]
    blocked = _blocked(decided)
    if len(decided) < settings.min_requests:
        return None
    low = wilson(blocked, len(decided)).low  # so that a few unlucky requests do not look like a habit
    if low < settings.block_rate:
        return None
    return Signal(signal="block_rate", requests=len(decided), blocked=blocked, value=low, threshold=settings.block_rate)


def _streak(window: Sequence[Row], settings: AbuseKeys) -> Signal | None:
    """The longest run of requests that were blocked, or that a layer took for a jailbreak whatever became of them."""
    decided = [row for row in window if row.status in DECIDED]
    runs = [list(run) for attempt, run in groupby(decided, _is_attempt) if attempt]
    longest = max(runs, key=len, default=[])
    if len(longest) < settings.streak:
        return None
    length = len(longest)
    return Signal(signal="streak", requests=length, blocked=_blocked(longest), value=length, threshold=settings.streak)


def _spike(window: Sequence[Row], start: float, now: float, settings: AbuseKeys) -> Signal | None:
    """The last minute against the minutes before it. A key that has only just begun has no earlier rate."""
    if not window:
        return None
    recent = [row for row in window if row.at > now - 60]
    minutes = (now - 60 - (window[0].at if len(window) >= MAX_ROWS else start)) / 60
    earlier = len(window) - len(recent)
    known = earlier > 0 and minutes >= 1
    times = len(recent) * minutes / earlier if known else 0.0
    if len(recent) < settings.min_requests or times < settings.spike:
        return None
    return Signal(signal="spike", requests=len(recent), blocked=_blocked(recent), value=times, threshold=settings.spike)


def _blocked(rows: Iterable[Row]) -> int:
    return sum(row.status in BLOCKED for row in rows)


def _is_attempt(row: Row) -> bool:
    return row.status in BLOCKED or row.hazard == "jailbreak"


class Monitor:
    """Looks at the keys that are in use and does what the settings say. Each gateway process has its own and reads the
    ledger that all write to, so all come to the same conclusions."""

    def __init__(
        self,
        settings: Settings,
        ledger: Requests,
        keys: Suspends,
        clock: Clock,
        noted: Callable[[str], None] = lambda signal: None,
    ) -> None:
        """`noted` hears the name of every signal."""
        self._ledger, self._keys, self._clock, self._noted = ledger, keys, clock, noted
        self.adopt(settings)
        self._in_use: set[str] = set()
        self._fired: dict[tuple[str, str], float] = {}
        self._slow: dict[str, float] = {}
        self._sampled: dict[str, float] = {}
        """Keys, and until when."""

    def adopt(self, settings: Settings) -> None:
        """Other settings from now on; what has been noticed stays."""
        self._abuse = settings.abuse
        self._window = settings.abuse.window_minutes * 60
        self._share = settings.traces.all_layers

    def delay(self, key: str) -> float:
        """Seconds that a request of this key waits. To be asked for every request: keys that are in use are known by
        it."""
        self._in_use.add(key)
        return self._abuse.slow_down_seconds if self._now(self._slow, key) else 0.0

    def sample(self, key: str) -> float:
        """The share of the key's requests, in [0, 1], on which every layer is also run as a shadow."""
        return 1.0 if self._now(self._sampled, key) else self._share

    def _now(self, until: dict[str, float], key: str) -> bool:
        return key in until and self._clock.now() < until[key]

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.look()
            except Exception:  # whatever it was: a monitor that has died sees nothing, and nobody sees that
                log.exception("keys were not looked at for abuse")

    async def look(self) -> None:
        """Once at every key that was in use since the last look or has requests under way."""
        now = self._clock.now()
        self._fired = {what: at for what, at in self._fired.items() if at > now - self._window}
        messages: list[bytes] = []
        for key in tuple(self._in_use):
            rows = await self._rows(key, now)
            for signal in signals(rows, now=now, settings=self._abuse):
                if self._fired.setdefault((key, signal.signal), now) == now:
                    messages += await self._respond(key, signal, now)
        if messages and self._abuse.webhook is not None:
            await _send(self._abuse.webhook, self._abuse.webhook_secret, messages)

    async def _rows(self, key: str, now: float) -> Sequence[Row]:
        self._in_use.discard(key)
        try:
            rows = await self._ledger.recent(key, now - self._window, MAX_ROWS)
        except BaseException:
            self._in_use.add(key)
            raise
        if any(not row.status for row in rows):
            self._in_use.add(key)
        return rows

    async def _respond(self, key: str, signal: Signal, now: float) -> list[bytes]:
        """Returns the messages for the webhook."""
        actions = getattr(self._abuse.actions, signal.signal)
        self._noted(signal.signal)
        log.warning(
            "abuse signal %s key=%s requests=%d blocked=%d value=%.3g threshold=%g actions=%s",
            signal.signal, key, signal.requests, signal.blocked, signal.value, signal.threshold, ",".join(actions),
        )  # fmt: skip
        if "slow_down" in actions:
            self._slow[key] = now + self._window
        if "shadow_sample" in actions:
            self._sampled[key] = now + self._window
        if "suspend" in actions:
            await self._suspend(key, now + self._abuse.suspend_minutes * 60)
        return [_message(key, signal, actions, now, self._window)] if "webhook" in actions else []

    async def _suspend(self, key: str, until: float) -> None:
        try:
            await asyncio.to_thread(self._keys.suspend, key, until)
        except AlignstackError as error:
            log.error("key %s was not suspended: %s", key, error)


def _message(key: str, signal: Signal, actions: Sequence[str], now: float, window: float) -> bytes:
    """Several processes may send the same; its `id` is then the same too."""
    name = f"{key}-{signal.signal}-{int(now // window)}"
    return msgspec.json.encode({"id": name, "key": key, "at": now, "actions": actions, **asdict(signal)})


async def _send(url: str, secret: str | None, messages: Sequence[bytes]) -> None:
    timeout = aiohttp.ClientTimeout(total=WEBHOOK_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await asyncio.gather(*(_post(session, url, secret, message) for message in messages))


async def _post(session: aiohttp.ClientSession, url: str, secret: str | None, body: bytes) -> None:
    """The address may hold a token of the receiver's, so the log does not repeat it."""
    headers = {"content-type": "application/json"}
    if secret is not None:
        headers["x-alignstack-signature"] = f"sha256={hmac.new(secret.encode(), body, 'sha256').hexdigest()}"
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            if not answer.ok or answer.status >= 300:
                log.error("the abuse webhook answered %d", answer.status)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.error("the abuse webhook was not reached: %s", type(error).__name__)
