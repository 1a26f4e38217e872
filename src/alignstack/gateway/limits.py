"""How much one key, and one person behind it, may ask for in a minute: GCRA on requests and on tokens.

A limit of N a minute is a bucket that holds N and fills with N a minute: N may come at once, then one every 60 / N
seconds. All limits of a request are tested, and taken from, in one step: a request that one of them refuses uses up
none, in memory and on Redis, where the step is one script, one round trip. That step is why no rate-limit library is
used here: theirs take one limit at a time.

With `memory://` every process counts for itself; with `redis://` all count together, by the clock of the Redis server.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple, Protocol

from alignstack.core.ports import Clock
from alignstack.core.usage import Key
from alignstack.gateway.call import Refused
from alignstack.gateway.settings import PersonLimitKeys, Settings
from alignstack.gateway.shared import Shared

Headers = Mapping[str, str]

NONE: Headers = {}

PERIOD = 60.0
"""Seconds: all limits are per minute."""

ROUNDING = 1e-6
"""Seconds by which sums of fractions may be off; far less than the time between two requests under any real limit."""

MAX_BUCKETS = 65_536
"""Chosen by hand: 14 MB. Names of people are the client's own text, so their number needs a bound; the bucket that was
used least recently goes first, and it is back to full at the latest after a minute."""


class Take(NamedTuple):
    """What one request takes from one bucket."""

    bucket: str
    limit: int
    """Per minute."""
    cost: int
    what: str
    """`requests` or `tokens`."""
    whose: str
    """`this key` or `this safety_identifier`."""

    @property
    def seconds(self) -> float:
        """The time in which the bucket gets back what is taken."""
        return self.cost * PERIOD / self.limit


class Buckets(Protocol):
    """Where it is kept how much has been taken. `take` says whether every bucket held enough, and for each how many
    seconds it needs to be full again: after the request if it was let in, else as it stands."""

    async def take(self, takes: Sequence[Take]) -> tuple[bool, Sequence[float]]: ...


class Limits:
    """The rate limits of one gateway process."""

    def __init__(self, settings: Settings, clock: Clock, shared: Shared | None = None) -> None:
        """With `shared` all processes count together, else this one counts for itself."""
        self._buckets: Buckets = MemoryBuckets(clock) if shared is None else SharedBuckets(shared)
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Other limits from now on; what has been counted stays."""
        self._default = settings.limits.allowance
        self._person = settings.person_limits
        self._people = settings.person_limits != PersonLimitKeys()

    async def admit(self, key: Key, person: str, tokens: int) -> Headers:
        """Counts a request that uses at most so many tokens, input and output. Returns the headers for its answer.
        Raises Refused (429) and then counts nothing."""
        takes = self._takes(key, person, tokens)
        if not takes:
            return NONE
        for take in takes:
            if take.cost > take.limit:
                raise _too_large(take)
        admitted, levels = await self._buckets.take(takes)
        if not admitted:
            raise _refused(takes, levels)
        return _headers(takes, levels)

    def _takes(self, key: Key, person: str, tokens: int) -> list[Take]:
        allowance = key.allowance or self._default
        takes: list[Take] = []
        if allowance.requests_per_minute is not None:
            takes.append(Take(f"{{{key.id}}}:r", allowance.requests_per_minute, 1, "requests", "this key"))
        if allowance.tokens_per_minute is not None:
            takes.append(Take(f"{{{key.id}}}:t", allowance.tokens_per_minute, tokens, "tokens", "this key"))
        if self._people and person:
            takes += self._takes_of_person(key, person, tokens)
        return takes

    def _takes_of_person(self, key: Key, person: str, tokens: int) -> list[Take]:
        """People are counted apart for every key: another customer's `user-1` is somebody else."""
        name = f"{{{key.id}}}:{blake2b(person.encode(errors='replace'), digest_size=16).hexdigest()}"
        takes: list[Take] = []
        if self._person.requests_per_minute is not None:
            takes.append(Take(f"{name}:r", self._person.requests_per_minute, 1, "requests", "this safety_identifier"))
        if self._person.tokens_per_minute is not None:
            takes.append(Take(f"{name}:t", self._person.tokens_per_minute, tokens, "tokens", "this safety_identifier"))
        return takes


class MemoryBuckets:
    """In this process. Between reading and writing nothing is awaited, so tasks cannot get between."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """Buckets that are not full, least recently used first, and when they will be."""

    async def take(self, takes: Sequence[Take]) -> tuple[bool, Sequence[float]]:
        now = self._clock.tick()
        levels = [max(self._full_at.get(take.bucket, now) - now, 0.0) for take in takes]
        after = [level + take.seconds for level, take in zip(levels, takes, strict=True)]
        if max(after) > PERIOD + ROUNDING:
            return False, levels
        for take, level in zip(takes, after, strict=True):
            self._full_at[take.bucket] = now + level
            self._full_at.move_to_end(take.bucket)
        self._forget(now)
        return True, after

    def _forget(self, now: float) -> None:
        buckets = self._full_at
        while len(buckets) > MAX_BUCKETS or buckets[next(iter(buckets))] < now:
            buckets.popitem(last=False)


class SharedBuckets:
    """On the server that all processes share; each step is one script, by the server's clock."""

    # The start of 2025 is subtracted because numbers lose precision with their size.
    SCRIPT = """
    local time = redis.call("TIME")
    local now = (time[1] - 1735689600) + time[2] / 1000000
    local before, after, fits = {}, {}, 1
    for i, key in ipairs(KEYS) do
        local level = math.max((tonumber(redis.call("GET", key)) or now) - now, 0)
        before[i] = tostring(level)
        after[i] = level + ARGV[i + 1]
        if after[i] > tonumber(ARGV[1]) then fits = 0 end
    end
    if fits == 0 then return {0, before} end
    for i, key in ipairs(KEYS) do
        redis.call("SET", key, string.format("%.17g", now + after[i]), "PX", math.ceil(after[i] * 1000) + 1)
        after[i] = tostring(after[i])
    end
    return {1, after}
    """

    def __init__(self, shared: Shared) -> None:
        self._script = shared.script(self.SCRIPT)

    async def take(self, takes: Sequence[Take]) -> tuple[bool, Sequence[float]]:
        keys = [f"alignstack:limit:{take.bucket}" for take in takes]
        admitted, levels = await self._script(keys, [PERIOD + ROUNDING, *(take.seconds for take in takes)])
        return bool(admitted), [float(level) for level in levels]


def _headers(takes: Sequence[Take], levels: Sequence[float]) -> dict[str, str]:
    """What is left of the limits, in OpenAI's words; of two limits on the same thing the one with less left."""
    headers: dict[str, str] = {}
    least: dict[str, int] = {}
    for take, level in zip(takes, levels, strict=True):
        left = max(int((PERIOD - level + ROUNDING) * take.limit / PERIOD), 0)
        if left >= least.get(take.what, left + 1):
            continue
        least[take.what] = left
        headers[f"x-ratelimit-limit-{take.what}"] = str(take.limit)
        headers[f"x-ratelimit-remaining-{take.what}"] = str(left)
        headers[f"x-ratelimit-reset-{take.what}"] = f"{math.ceil(level * 10) / 10:g}s"
    return headers


def _refused(takes: Sequence[Take], levels: Sequence[float]) -> Refused:
    """Names the limit that takes longest to make room."""
    waits = [level + take.seconds - PERIOD for take, level in zip(takes, levels, strict=True)]
    wait = max(waits)
    take = takes[waits.index(wait)]
    seconds = max(math.ceil(wait), 1)
    message = (
        f"Rate limit reached: {take.limit} {take.what} a minute for {take.whose}; this request needs {take.cost}. "
        f"Try again in {seconds} s."
    )
    return _limited(message, {"retry-after": str(seconds), **_headers(takes, levels)})


def _too_large(take: Take) -> Refused:
    """SDKs try 429 again unless told not to."""
    message = (
        f"This request may use {take.cost} tokens, and the whole limit is {take.limit} a minute for {take.whose}: "
        "it can never pass. Shorten it, or ask for fewer tokens."
    )
    return _limited(message, {"x-should-retry": "false", "x-ratelimit-limit-tokens": str(take.limit)})


def _limited(message: str, headers: Headers) -> Refused:
    return Refused(429, message, kind="rate_limit_error", code="rate_limit_exceeded", headers=headers)
