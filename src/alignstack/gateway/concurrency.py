"""How many requests of one key may be under way at the same time.

In memory a number. On a shared server a lease for each request: it ends by itself when nobody renews it, so that the
requests of a killed worker do not count for ever.
"""

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import Protocol
from uuid import uuid4

from alignstack.core.usage import Allowance, Key
from alignstack.gateway.call import Refused
from alignstack.gateway.settings import Settings
from alignstack.gateway.shared import Shared

LEASE = 30.0
"""Seconds that a killed worker's requests still count; chosen by hand. Leases are renewed three times in it."""

log = logging.getLogger(__name__)

FREE: AbstractAsyncContextManager[None] = nullcontext()
"""For keys without a cap."""


class Slots(Protocol):
    """The requests under way. `take` returns what to give back, or None when `cap` of the key are taken."""

    async def take(self, key: str, cap: int) -> str | None: ...
    async def give_back(self, key: str, slot: str) -> None: ...


class Caps:
    """The concurrency caps of one gateway process."""

    def __init__(self, settings: Settings, shared: Shared | None = None) -> None:
        """With `shared` all processes count together, else this one counts for itself."""
        self._slots: Slots = MemorySlots() if shared is None else SharedSlots(shared)
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Another cap from now on; requests under way keep their slots."""
        self._default: Allowance = settings.limits.allowance

    def hold(self, key: Key) -> AbstractAsyncContextManager[None]:
        """`async with caps.hold(key)` around all of a request, its stream included. Entering raises Refused (429) when
        the key's cap is reached."""
        cap = (key.allowance or self._default).concurrent
        return FREE if cap is None else _Held(self._slots, key.id, cap)


class _Held:
    __slots__ = ("_cap", "_key", "_slot", "_slots")

    def __init__(self, slots: Slots, key: str, cap: int) -> None:
        self._slots, self._key, self._cap = slots, key, cap
        self._slot = ""

    async def __aenter__(self) -> None:
        slot = await self._slots.take(self._key, self._cap)
        if slot is None:
            raise _refused(self._cap)
        self._slot = slot

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._slots.give_back(self._key, self._slot)


class MemorySlots:
    """In this process."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    async def take(self, key: str, cap: int) -> str | None:
        taken = self._taken.get(key, 0)
        if taken >= cap:
            return None
        self._taken[key] = taken + 1
        return key

    async def give_back(self, key: str, slot: str) -> None:
        left = self._taken.pop(key) - 1
        if left:
            self._taken[key] = left


class SharedSlots:
    """On the server that all processes share: for each key a sorted set of leases by when they end."""

    TAKE = """
    local time = redis.call("TIME")
    local now = time[1] + time[2] / 1000000
    redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", now)
    if redis.call("ZCARD", KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
    redis.call("ZADD", KEYS[1], now + ARGV[3], ARGV[1])
    redis.call("EXPIRE", KEYS[1], math.ceil(ARGV[3]) + 1)
    return 1
    """

    # Also a lease that ended meanwhile comes back: its request is still under way.
    RENEW = """
    local time = redis.call("TIME")
    local ends = time[1] + time[2] / 1000000 + ARGV[1]
    for i = 2, #ARGV do redis.call("ZADD", KEYS[1], ends, ARGV[i]) end
    redis.call("EXPIRE", KEYS[1], math.ceil(ARGV[1]) + 1)
    """

    GIVE_BACK = 'return redis.call("ZREM", KEYS[1], ARGV[1])'

    def __init__(self, shared: Shared, lease: float = LEASE) -> None:
        self._take, self._renew = shared.script(self.TAKE), shared.script(self.RENEW)
        self._give_back = shared.script(self.GIVE_BACK)
        self._lease = lease
        self._held: dict[str, set[str]] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def take(self, key: str, cap: int) -> str | None:
        slot = uuid4().hex
        self._held.setdefault(key, set()).add(slot)
        try:
            taken = await self._answered(key, slot, cap)
        except Refused:
            self._forget(key, slot)  # should the server have counted it after all, nobody renews it
            raise
        if not taken:
            self._forget(key, slot)
            return None
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._keep())
        return slot

    async def _answered(self, key: str, slot: str, cap: int) -> bool:
        """When the client goes away meanwhile, the server's answer is waited for, and what it gave is given back."""
        asking = asyncio.create_task(self._take([_name(key)], [slot, cap, self._lease]))
        try:
            return bool(await asyncio.shield(asking))
        except asyncio.CancelledError:
            await asyncio.wait([asking])
            await self.give_back(key, slot)
            raise

    async def give_back(self, key: str, slot: str) -> None:
        self._forget(key, slot)
        try:
            await asyncio.shield(self._give_back([_name(key)], [slot]))
        except Refused:
            log.warning("a finished request of key %r counts for up to %g more seconds", key, self._lease)

    def _forget(self, key: str, slot: str) -> None:
        held = self._held[key]
        held.discard(slot)
        if not held:
            del self._held[key]

    async def _keep(self) -> None:
        """Renews this process's leases for as long as it has any."""
        while self._held:
            await asyncio.sleep(self._lease / 3)
            for key, held in list(self._held.items()):
                try:
                    await self._renew([_name(key)], [self._lease, *held])
                except Refused:
                    log.warning("leases of key %r were not renewed", key)


def _name(key: str) -> str:
    return f"alignstack:running:{key}"


def _refused(cap: int) -> Refused:
    under_way = "1 request of this key is" if cap == 1 else f"{cap} requests of this key are"
    message = f"{under_way} under way, as many as it may have. Try again when one has ended."
    code = "concurrency_limit_exceeded"
    return Refused(429, message, kind="rate_limit_error", code=code, headers={"retry-after": "1"})
