"""Concurrency caps of several processes on one Redis server."""

import asyncio
import sys

import pytest

from alignstack.core.usage import Key
from alignstack.gateway.call import Refused
from alignstack.gateway.concurrency import Caps, SharedSlots
from alignstack.gateway.settings import LimitKeys, Settings
from alignstack.gateway.shared import Shared

LEASE = 1.5
"""Seconds; far shorter than in service, so that a test can see it end."""

WORKER = """
import asyncio, sys
from alignstack.gateway.concurrency import SharedSlots
from alignstack.gateway.shared import Shared

async def main():
    slots = SharedSlots(Shared(sys.argv[1]), float(sys.argv[2]))
    print(sum([await slots.take("killed", 3) is not None for _ in range(5)]), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_two_gateways_hold_no_more_than_the_cap_together(address: str) -> None:
    gateways = [Shared(address), Shared(address)]
    all_caps = [Caps(Settings(limits=LimitKeys(concurrent=5)), shared) for shared in gateways]
    everyone = asyncio.Barrier(40)

    async def request(caps: Caps) -> bool:
        try:
            async with caps.hold(Key(id="two")):
                await everyone.wait()
        except Refused as refused:
            assert refused.code == "concurrency_limit_exceeded"
            await everyone.wait()
            return False
        return True

    assert sum(await asyncio.gather(*(request(caps) for caps in all_caps for _ in range(20)))) == 5
    async with all_caps[1].hold(Key(id="two")):
        pass
    await asyncio.gather(*(shared.close() for shared in gateways))


async def test_a_killed_workers_slots_become_free_and_until_then_are_kept(address: str, shared: Shared) -> None:
    slots = SharedSlots(shared, LEASE)
    command = [sys.executable, "-c", WORKER, address, str(LEASE)]
    worker = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert worker.stdout is not None and await worker.stdout.readline() == b"3\n"
    try:
        await asyncio.sleep(2 * LEASE)
        assert await slots.take("killed", 3) is None  # the worker renews them
    finally:
        worker.kill()
        await worker.wait()
    await asyncio.sleep(1.2 * LEASE)
    assert [await slots.take("killed", 3) is not None for _ in range(4)] == [True, True, True, False]


async def test_renewing_ends_with_the_last_request(shared: Shared) -> None:
    slots = SharedSlots(shared, 0.1)
    slot = await slots.take("one", 1)
    assert slot is not None
    await slots.give_back("one", slot)
    await asyncio.sleep(0.2)
    assert slots._renewing is not None and slots._renewing.done()
    assert await slots.take("one", 1) is not None


async def test_a_request_that_is_cancelled_while_it_asks_for_a_slot_leaves_none_taken(shared: Shared) -> None:
    slots = SharedSlots(shared, 60)
    for turns in range(12):
        task = asyncio.create_task(slots.take("cancelled", 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        [result] = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, str):
            await slots.give_back("cancelled", result)
    slot = await slots.take("cancelled", 1)
    assert slot is not None
    await slots.give_back("cancelled", slot)


async def test_without_the_server_requests_are_refused_with_503() -> None:
    shared = Shared("redis://127.0.0.1:1")
    with pytest.raises(Refused) as caught:
        async with Caps(Settings(limits=LimitKeys(concurrent=1)), shared).hold(Key(id="a")):
            pass
    assert caught.value.status == 503
    await shared.close()
