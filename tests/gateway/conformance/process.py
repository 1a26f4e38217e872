"""`alignstack serve` as a process of its own, by the installed command."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.gateway.conformance.reading import Json

STARTED = re.compile(r"serving .* on http://(.+):(\d+)/v1")
ENDS = 20.0
"""Seconds for a process to start or end, on a busy machine."""


@dataclass(kw_only=True)
class Process:
    """A running gateway; what it writes is kept."""

    running: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    """Of standard error, so far."""
    out: bytes = b""
    """Of standard output, once it has ended."""
    silent: bool = False
    """Standard error was closed."""
    port: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def err(self) -> str:
        return "".join(self.lines)

    async def read(self) -> None:
        assert self.running.stderr is not None
        while line := await self.running.stderr.readline():
            async with self.changed:
                self.lines.append(line.decode())
                self.changed.notify_all()
        async with self.changed:
            self.silent = True
            self.changed.notify_all()

    async def says(self, pattern: str | re.Pattern[str], times: int = 1) -> re.Match[str]:
        """Waits until so many lines of standard error have matched; the last of them."""

        def found() -> list[re.Match[str]]:
            return [match for line in self.lines if (match := re.search(pattern, line))]

        async with asyncio.timeout(ENDS), self.changed:
            await self.changed.wait_for(lambda: self.silent or len(found()) >= times)
        assert len(found()) >= times, f"it did not say {pattern!r} but: {self.err}"
        return found()[times - 1]

    def signal(self, number: signal.Signals) -> None:
        self.running.send_signal(number)

    async def ended(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(ENDS):
            assert self.running.stdout is not None
            self.out += await self.running.stdout.read()
            return await self.running.wait()


@asynccontextmanager
async def serve(stack: Path, *options: str, ready: int = 200, **environment: str) -> AsyncIterator[Process]:
    """On a free port of 127.0.0.1, unless `options` say otherwise, and once `/ready` has the status `ready`. Killed at
    the end, with its workers."""
    process = await started("serve", "--stack", str(stack), "--port", "0", *options, **environment)
    reading = asyncio.ensure_future(process.read())
    try:
        process.port = int((await process.says(STARTED))[2])
        await _ready(process.url, ready)
        yield process
    finally:
        if process.running.returncode is None:
            os.killpg(process.running.pid, signal.SIGKILL)
            await process.running.wait()
        await reading


async def started(*arguments: str, **environment: str) -> Process:
    """`alignstack` with these arguments, in a process group of its own."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "alignstack", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    return Process(running=running)


async def _ready(url: str, status: int) -> None:
    async with asyncio.timeout(ENDS), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/ready") as answer:
                    if answer.status == status:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def command(*arguments: str) -> tuple[int, str, str]:
    """Runs it to its end: exit code, standard output and error."""
    process = await started(*arguments)
    async with asyncio.timeout(ENDS):
        out, err = await process.running.communicate()
    return process.running.returncode or 0, out.decode(), err.decode()


async def new_key(name: str, *options: str) -> Json:
    """The key, with its secret."""
    code, out, err = await command("keys", "add", name, *options, "--json")
    assert code == 0, err
    made: dict[str, Any] = json.loads(out)
    return made
