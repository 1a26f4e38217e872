"""A server that sends given bytes to any request, for the official SDKs."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(data, status=…, kind=…)` is the address of a server that answers every POST with `data`."""
    runners: list[web.AppRunner] = []

    async def start(data: bytes, *, status: int = 200, kind: str = "application/json") -> str:
        async def answer(request: web.Request) -> web.StreamResponse:
            await request.read()
            response = web.StreamResponse(status=status, headers={"Content-Type": kind})
            await response.prepare(request)
            for at in range(0, len(data), 100):  # events must survive being cut anywhere
                await response.write(data[at : at + 100])
            await response.write_eof()
            return response

        app = web.Application()
        app.router.add_post("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()
