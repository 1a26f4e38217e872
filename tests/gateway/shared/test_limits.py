"""Rate limits of several processes on one Redis server."""

import asyncio
import json
import subprocess
import sys
import time

import pytest

from alignstack.core.usage import Key
from alignstack.gateway.call import Refused
from alignstack.gateway.limits import Limits
from alignstack.gateway.settings import LimitKeys, PersonLimitKeys, Settings
from alignstack.gateway.shared import Shared, connect
from alignstack.store.clock import SystemClock

WORKER = """
import asyncio, json, sys, time
from alignstack.core.usage import Key
from alignstack.gateway.call import Refused
from alignstack.gateway.limits import Limits
from alignstack.gateway.settings import LimitKeys, Settings
from alignstack.gateway.shared import Shared
from alignstack.store.clock import SystemClock

async def passes(limits, tokens):
    try:
        await limits.admit(Key(id=f"two-{sys.argv[2]}"), "", tokens)
    except Refused as refused:
        assert refused.status == 429
        return False
    return True

async def main():
    shared = Shared(sys.argv[1])
    keys = LimitKeys(requests_per_minute=int(sys.argv[2]), tokens_per_minute=int(sys.argv[3]))
    limits = Limits(Settings(limits=keys), SystemClock(), shared)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(sum(await asyncio.gather(*(passes(limits, 10) for _ in range(60))))), flush=True)
    await shared.close()

asyncio.run(main())
"""


def two_processes(address: str, requests: int, tokens: int) -> tuple[int, float]:
    """How many of 120 requests of 10 tokens, sent by two processes at once, are let in, and the minutes it took."""
    command = [sys.executable, "-c", WORKER, address, str(requests), str(tokens)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    start = time.monotonic()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
    admitted = [int(json.loads(worker.communicate(timeout=30)[0])) for worker in workers]
    return sum(admitted), (time.monotonic() - start) / 60


@pytest.mark.parametrize(("requests", "tokens", "limit"), [(30, 10_000, 30), (1000, 250, 25)])
def test_two_processes_admit_the_limit_and_no_more(address: str, requests: int, tokens: int, limit: int) -> None:
    admitted, minutes = two_processes(address, requests, tokens)
    assert limit <= admitted <= limit * (1 + minutes)


def limits_of(shared: Shared, *, person: int | None = None, **limits: int) -> Limits:
    settings = Settings(
        limits=LimitKeys.model_validate(limits), person_limits=PersonLimitKeys(requests_per_minute=person)
    )
    return Limits(settings, SystemClock(), shared)


async def passes(limits: Limits, key: Key, person: str = "", tokens: int = 1) -> bool:
    try:
        await limits.admit(key, person, tokens)
    except Refused as refused:
        assert refused.status == 429, refused.message
        return False
    return True


async def test_what_one_limit_refuses_uses_up_none_of_another(shared: Shared) -> None:
    limits, key = limits_of(shared, requests_per_minute=3, tokens_per_minute=100), Key(id="steps")
    assert await passes(limits, key, tokens=90)
    assert not any(await asyncio.gather(*(passes(limits, key, tokens=50) for _ in range(50))))
    assert sum(await asyncio.gather(*(passes(limits, key, tokens=4) for _ in range(50)))) == 2


async def test_headers_are_those_of_memory(shared: Shared) -> None:
    limits = limits_of(shared, requests_per_minute=6, tokens_per_minute=600)
    headers = await limits.admit(Key(id="headers"), "", 60)
    assert headers["x-ratelimit-remaining-requests"] == "5"
    assert headers["x-ratelimit-reset-requests"] == "10s"
    assert headers["x-ratelimit-reset-tokens"] == "6s"
    with pytest.raises(Refused) as caught:
        for _ in range(6):
            await limits.admit(Key(id="headers"), "", 1)
    assert caught.value.headers["retry-after"] == "10"


async def test_buckets_refill_by_the_servers_clock_and_leave_the_server(shared: Shared, address: str) -> None:
    limits, key = limits_of(shared, requests_per_minute=600), Key(id="refill")
    assert await passes(limits, key)
    await asyncio.sleep(0.3)
    from redis.asyncio import Redis

    async with Redis.from_url(address) as redis:
        assert await redis.keys("*{refill}*") == []
    headers = await limits.admit(key, "", 1)
    assert headers["x-ratelimit-remaining-requests"] == "599"


async def test_people_are_counted_on_the_server_without_their_names(shared: Shared, address: str) -> None:
    limits = limits_of(shared, person=2)
    assert [await passes(limits, Key(id="people"), "ann@example.org") for _ in range(3)] == [True, True, False]
    from redis.asyncio import Redis

    async with Redis.from_url(address, decode_responses=True) as redis:
        assert not [name for name in await redis.keys() if "ann" in name]


async def test_without_the_server_requests_are_refused_with_503_and_the_log_says_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared = connect("redis://:hunter2@127.0.0.1:1")
    assert shared is not None
    limits = limits_of(shared, requests_per_minute=1)
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            await limits.admit(Key(id="a"), "", 1)
        assert (caught.value.status, caught.value.code) == (503, "limits_unavailable")
    assert len(caplog.records) == 1
    assert "hunter2" not in caplog.text
    await shared.close()
