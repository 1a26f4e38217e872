"""Concurrency caps in one process; `shared/` has those of several on one Redis."""

import asyncio

import pytest

from alignstack.core.usage import ANYONE, Allowance, Key
from alignstack.gateway.call import Refused
from alignstack.gateway.concurrency import FREE, Caps
from alignstack.gateway.settings import LimitKeys, Settings


def capped(concurrent: int | None) -> Caps:
    return Caps(Settings(limits=LimitKeys(concurrent=concurrent)))


async def admitted(caps: Caps, key: Key, times: int) -> tuple[int, int]:
    """Of so many requests at once: how many were let in, and how many of them ran at the same time at most."""
    running, most = 0, 0

    async def request() -> bool:
        nonlocal running, most
        try:
            async with caps.hold(key):
                running += 1
                most = max(most, running)
                await asyncio.sleep(0)
                running -= 1
        except Refused:
            return False
        return True

    return sum(await asyncio.gather(*(request() for _ in range(times)))), most


async def test_a_key_without_a_cap_costs_nothing() -> None:
    assert capped(None).hold(ANYONE) is FREE
    assert await admitted(capped(None), ANYONE, 9) == (9, 9)


async def test_no_more_run_than_the_cap() -> None:
    assert await admitted(capped(3), ANYONE, 20) == (3, 3)


async def test_a_refusal_is_429_with_its_code() -> None:
    caps = capped(1)
    async with caps.hold(ANYONE):
        with pytest.raises(Refused) as caught:
            async with caps.hold(ANYONE):
                pass
    assert (caught.value.status, caught.value.code) == (429, "concurrency_limit_exceeded")
    assert caught.value.headers == {"retry-after": "1"}
    assert "1 request of this key is under way" in caught.value.message


async def test_a_slot_is_free_again_however_its_request_ended() -> None:
    caps = capped(1)
    with pytest.raises(ZeroDivisionError):
        async with caps.hold(ANYONE):
            raise ZeroDivisionError
    task = asyncio.create_task(hold_for_ever(caps, ANYONE))
    await asyncio.sleep(0)
    assert (await admitted(caps, ANYONE, 1))[0] == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await admitted(caps, ANYONE, 1))[0] == 1


async def hold_for_ever(caps: Caps, key: Key) -> None:
    async with caps.hold(key):
        await asyncio.Event().wait()


async def test_keys_do_not_share_and_may_have_caps_of_their_own() -> None:
    caps = capped(1)
    async with caps.hold(Key(id="a")):
        assert await admitted(caps, Key(id="b"), 3) == (1, 1)
        assert await admitted(caps, Key(id="c", allowance=Allowance(concurrent=2)), 3) == (2, 2)
        assert await admitted(caps, Key(id="d", allowance=Allowance()), 3) == (3, 3)
