"""Limits of a gateway of two worker processes that count on one Redis server."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.gateway.conformance import workers
from tests.gateway.conformance.clients import PATHS, body
from tests.gateway.conformance.process import ENDS, Process, new_key, serve
from tests.gateway.conformance.upstream import Upstream, upstream
from tests.gateway.test_process import write_stack

AT_ONCE = 24


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    async with upstream() as running:
        yield running


async def ask(process: Process, secret: str, prompt: str) -> tuple[int, dict[str, str]]:
    """On a connection of its own, which may come to any worker."""
    headers = {"Authorization": f"Bearer {secret}"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.post(process.url + PATHS["chat"], json=body("chat", prompt, stream=False), headers=headers) as answer,
    ):
        await answer.read()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}


@asynccontextmanager
async def two_workers(folder: Path, server: Upstream, address: str) -> AsyncIterator[Process]:
    stack = write_stack(folder, server, serve={"storage": address})
    async with serve(stack, "--workers", "2", TMPDIR=str(folder)) as process:
        await workers.count(folder, 2)
        yield process


async def test_no_more_requests_than_allowed_are_under_way_in_all_workers_together(
    tmp_path: Path, address: str, server: Upstream
) -> None:
    key = await new_key("three", "--concurrent", "3")
    async with two_workers(tmp_path, server, address) as process:
        waiting = [asyncio.ensure_future(ask(process, key["secret"], "hang")) for _ in range(3)]
        await server.arrival("hang", 3)
        served: Counter[int] = Counter()
        while len(served) < 2:  # until each worker has had to say no
            answers = await asyncio.gather(*(ask(process, key["secret"], "bread") for _ in range(AT_ONCE)))
            assert {status for status, _ in answers} == {429}
            served = workers.requests(tmp_path)
        for request in waiting:
            request.cancel()
        await asyncio.wait(waiting)
        async with asyncio.timeout(ENDS):
            while (await ask(process, key["secret"], "bread"))[0] != 200:  # slots come back once the workers know
                continue
    assert len(server.asked("hang")) == 3


async def test_no_more_requests_a_minute_than_allowed_are_let_in_by_all_workers_together(
    tmp_path: Path, address: str, server: Upstream
) -> None:
    key = await new_key("seven", "--requests-per-minute", "7")
    async with two_workers(tmp_path, server, address) as process:
        start = time.monotonic()
        answers: list[tuple[int, dict[str, str]]] = []
        while len(workers.requests(tmp_path)) < 2:
            answers += await asyncio.gather(*(ask(process, key["secret"], "bread") for _ in range(AT_ONCE)))
        refilled = int((time.monotonic() - start) * 7 / 60)
    statuses = Counter(status for status, _ in answers)
    assert statuses.keys() == {200, 429} and 7 <= statuses[200] <= 7 + refilled
    assert len(server.asked("bread")) == statuses[200]
    assert all(int(headers["retry-after"]) > 0 for status, headers in answers if status == 429)
    assert {headers["x-ratelimit-limit-requests"] for _, headers in answers} == {"7"}
