"""A real gateway on a real port, in the test's own event loop, with its stores in a folder of the test's."""

import asyncio
import socket
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from alignstack.core.trace import Trace
from alignstack.core.usage import Admitted, Settled
from alignstack.gateway.listen import Guarded
from alignstack.gateway.server import Worker
from alignstack.gateway.services import Services
from alignstack.store.traces import SqliteTraces


@dataclass(frozen=True, kw_only=True)
class Running:
    """`url` has no path; clients add `/v1`."""

    url: str
    port: int
    worker: Worker

    @property
    def services(self) -> Services:
        return self.worker.gateway.services

    async def traces(self) -> list[Trace]:
        """Newest first; waits for what is being written."""
        await self.services.writer.run(lambda connection: None)
        return SqliteTraces().recent(1000)

    async def trace(self, trace_id: str) -> Trace:
        await self.services.writer.run(lambda connection: None)
        return SqliteTraces().get(trace_id)

    async def ledger(self) -> list[Admitted | Settled]:
        return [entry async for entry in self.services.ledger.entries()]  # type: ignore[attr-defined]


@asynccontextmanager
async def gateway(folder: Path, stack: str) -> AsyncIterator[Running]:
    """`stack`: the text of a stack file. Requires ALIGNSTACK_HOME to be set to a folder of the test's own."""
    file = folder / "stack.yaml"
    file.write_text(textwrap.dedent(stack), encoding="utf-8")
    worker = Worker(file)
    config = uvicorn.Config(
        worker, host="127.0.0.1", port=0, http=Guarded, ws="none", lifespan="on", log_level="warning",
        access_log=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)
    # asyncio sends at once only on sockets that say that they are TCP's
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    going = asyncio.ensure_future(server._serve([listener]))
    try:
        while not server.started:
            if going.done():
                going.result()
                raise RuntimeError("the gateway did not start")
            await asyncio.sleep(0.01)
        yield Running(url=f"http://127.0.0.1:{port}", port=port, worker=worker)
    finally:
        server.should_exit = True
        await going
        listener.close()
