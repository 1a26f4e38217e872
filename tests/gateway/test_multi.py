"""Several worker processes: one of them dies, and the others and the ledger go on as if nothing had happened."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from alignstack.core.usage import Admitted, Settled
from alignstack.store.open_ledger import open_ledger
from tests.gateway.conformance import reading, workers
from tests.gateway.conformance.clients import PATHS, body
from tests.gateway.conformance.process import ENDS, serve
from tests.gateway.conformance.upstream import SCRIPTS, Upstream, upstream
from tests.gateway.test_process import write_stack

CLIENTS = 12
AFTER = 60
"""Answers before and after the kill."""
RECIPE = "".join(SCRIPTS["bread"].read)


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    async with upstream() as running:
        yield running


@dataclass(kw_only=True)
class Load:
    """Clients that ask one request after another, every other one for a stream, until `stop`."""

    url: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Condition = field(default_factory=asyncio.Condition)
    whole: list[str] = field(default_factory=list)
    """Ids of answers that arrived whole."""
    broken: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    async def client(self, number: int) -> None:
        while not self.stop.is_set():
            number += 1
            connector = aiohttp.TCPConnector(force_close=True)  # a new connection may come to any worker
            async with aiohttp.ClientSession(connector=connector) as session:
                try:
                    await self._ask(session, stream=number % 2 == 0)
                except (aiohttp.ClientError, ConnectionError):
                    self.broken += 1

    async def _ask(self, session: aiohttp.ClientSession, *, stream: bool) -> None:
        asked = body("chat", "bread", stream=stream)
        async with session.post(self.url + PATHS["chat"], json=asked) as answer:
            raw = await answer.read()
        self.statuses[answer.status] += 1
        read = (
            reading.streamed("chat", reading.events("chat", raw))
            if stream
            else reading.whole("chat", await answer.json())
        )
        assert (read.text, read.ending) == (RECIPE, "stop")
        async with self.answered:
            self.whole.append(answer.headers["x-request-id"])
            self.answered.notify_all()

    async def until(self, answers: int) -> None:
        async with asyncio.timeout(ENDS), self.answered:
            await self.answered.wait_for(lambda: len(self.whole) >= answers)


async def test_a_worker_that_is_killed_takes_nothing_with_it(tmp_path: Path, server: Upstream) -> None:
    stack = write_stack(tmp_path, server)
    async with serve(stack, "--workers", "2", TMPDIR=str(tmp_path)) as process:
        first = await workers.count(tmp_path, 2)
        load = Load(url=process.url)
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(load.client(number))
            await load.until(AFTER)
            killed = first.pop()
            os.kill(killed, signal.SIGKILL)
            at_kill = len(load.whole)
            await load.until(at_kill + AFTER)  # the other one goes on
            second = await workers.count(tmp_path, 2, without=killed)
            await load.until(len(load.whole) + AFTER)
            load.stop.set()
        assert second != first | {killed} and len(second) == 2  # it was replaced
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert set(load.statuses) == {200}
    assert load.broken <= CLIENTS  # those that the killed worker had in hand
    await check_ledger(load)


async def check_ledger(load: Load) -> None:
    async with open_ledger() as ledger:
        entries = [entry async for entry in ledger.entries()]
    admitted = Counter(entry.id for entry in entries if isinstance(entry, Admitted))
    settled = Counter(entry.id for entry in entries if isinstance(entry, Settled))
    assert set(admitted.values()) == set(settled.values()) == {1}
    assert len(load.whole) == len(set(load.whole))
    assert settled.keys() >= set(load.whole)
    assert admitted.keys() >= settled.keys()
    assert len(admitted) - len(load.whole) <= load.broken
