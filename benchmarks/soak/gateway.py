"""The gateway as its users start it, its model server and its Redis; all stopped at the end."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from alignstack.core.usage import Admitted, Allowance, Settled
from alignstack.store.keys import SqliteKeys
from alignstack.store.open_ledger import open_ledger
from benchmarks.soak import proc
from benchmarks.soak.script import FORBIDDEN, MARKER, REFUSAL

HERE = Path(__file__).resolve().parent
START_S = 60.0
"""That a program may take to answer on a busy machine."""
DRAIN_S = 10.0
FEW_FILES = ("sh", "-c", 'ulimit -Sn 64 && exec "$@"', "sh")
"""Starts a program that may open fewer files than it has clients, unless it asks for more as it should."""

STACK = """
model:
  use: openai_http
  base_url: http://127.0.0.1:{upstream}/v1
  model: tiny
  timeout_s: 8
  idle_timeout_s: 3
  max_retries: 1
refusal: {refusal}
streaming: true
window: 4
layers:
  - {{use: rate_limit, requests_per_minute: 600}}
  - {{use: keyword, name: word_in, phase: request, patterns: [{forbidden}]}}
  - {{use: classifier, name: model_in, phase: request, model: embedded, threshold: 0.9}}
  - {{use: keyword, name: word_out, phase: output, patterns: [{marker}]}}
  - {{use: classifier, name: model_out, phase: output, model: embedded, threshold: 0.9}}
serve:
  storage: {storage}
  drain_seconds: {drain}
"""

Allowances = Mapping[str, Allowance]
"""By a name for the key."""


@dataclass(frozen=True, kw_only=True)
class Killed:
    """A worker that was killed."""

    pid: int
    at: float
    """Seconds since 1970."""
    ports: frozenset[int]
    """Of the clients whose connections it held."""


class Held(NamedTuple):
    """What a worker has open."""

    clients: int
    """Connections."""
    upstream: int
    """Connections to the model server."""
    files: int
    """Of any kind, the connections among them."""

    def __str__(self) -> str:
        return f"{self.clients} + {self.upstream} connections, {self.files} files"


@dataclass(kw_only=True)
class Serving:
    """A gateway that answers."""

    port: int
    upstream_port: int
    process: "subprocess.Popen[bytes]"
    log: Path
    workers_wanted: int
    secrets: Mapping[str, str]
    """Of the keys, by the names that they were asked for."""
    key_ids: Mapping[str, str]
    killed: list[Killed] = field(default_factory=list)

    def workers(self) -> list[int]:
        """Process ids, oldest first."""
        if self.workers_wanted == 1:
            return [self.process.pid]
        found = []
        for pid in proc.children(self.process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if "spawn_main" in proc.command(pid):
                    found.append(pid)
        return sorted(found)

    def kill(self, pid: int) -> None:
        """The worker does nothing more from the moment on in which its connections are counted."""
        os.kill(pid, signal.SIGSTOP)
        ports = frozenset(remote for local, remote in proc.connections(pid) if local == self.port)
        self.killed.append(Killed(pid=pid, at=time.time(), ports=ports))
        os.kill(pid, signal.SIGKILL)

    async def replaced(self) -> None:
        """Waits until there are as many workers as there should be."""
        for _ in range(int(START_S * 10)):
            if len(self.workers()) >= self.workers_wanted:
                return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"a killed worker was not started again:\n{self.log.read_text()}")

    def held(self, pid: int) -> Held:
        found = proc.connections(pid)
        clients = sum(local == self.port for local, _ in found)
        upstream = sum(remote == self.upstream_port for _, remote in found)
        return Held(clients=clients, upstream=upstream, files=len(proc.descriptors(pid)))

    async def in_flight(self) -> float:
        """Requests under way, in all workers."""
        text = (await self._get("/metrics")).decode()
        values = [line.split()[1] for line in text.splitlines() if line.startswith("alignstack_in_flight ")]
        return sum(map(float, values))

    async def _get(self, path: str) -> bytes:
        return await asyncio.to_thread(
            get, f"http://127.0.0.1:{self.port}{path}", {"authorization": f"Bearer {self.secrets['admin']}"}
        )

    async def stop(self) -> tuple[int, float]:
        """Exit status and the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(self.process.wait, DRAIN_S + 20)
        return status, time.monotonic() - began


def get(url: str, headers: Mapping[str, str] = {}) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=20) as answer:
        data: bytes = answer.read()
    return data


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def program(*argv: str, log: Path | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """Killed in the end, if it still runs."""
    with ExitStack() as files:
        out = files.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        process = subprocess.Popen(argv, stdout=out, stderr=out)
        try:
            yield process
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM first: it has children to stop."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(DRAIN_S + 5)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Its address."""
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    with program("redis-server", *options):
        yield f"redis://127.0.0.1:{port}"


def make_keys(wanted: Allowances) -> tuple[dict[str, str], dict[str, str]]:
    """Secrets and public ids, by name. One more, `admin`, reads the metrics."""
    keys = SqliteKeys()
    made = {name: keys.add(name, allowance=allowance) for name, allowance in wanted.items()}
    made["admin"] = keys.add("admin", admin=True)
    keys.close()
    return {name: secret for name, (_, secret) in made.items()}, {name: key.id for name, (key, _) in made.items()}


def stack(upstream: int, storage: str) -> str:
    """The text of the stack file. `upstream`: the port of the model server."""
    words = {"refusal": REFUSAL, "forbidden": FORBIDDEN, "marker": MARKER, "drain": DRAIN_S}
    return STACK.format(upstream=upstream, storage=storage, **words)


@asynccontextmanager
async def model_server(pace: float) -> AsyncIterator[int]:
    """Its port."""
    port = free_port()
    with program(sys.executable, str(HERE / "upstream.py"), str(port), str(pace)) as process:
        await answers(f"http://127.0.0.1:{port}/seen", process)
        yield port


@asynccontextmanager
async def serving(
    folder: Path, keys: Allowances, *, workers: int, storage: str, pace: float = 1.0
) -> AsyncIterator[Serving]:
    """Requires ALIGNSTACK_HOME to be set to a new folder. `pace` as in `upstream`."""
    secrets, ids = make_keys(keys)
    port, file, log = free_port(), folder / "stack.yaml", folder / "log"
    command = (sys.executable, "-m", "alignstack", "serve", "--stack", str(file), "--port", str(port))
    async with model_server(pace) as upstream:
        file.write_text(stack(upstream, storage), encoding="utf-8")
        with program(*FEW_FILES, *command, "--workers", str(workers), log=log) as process:
            await answers(f"http://127.0.0.1:{port}/ready", process, log)
            yield Serving(
                port=port,
                upstream_port=upstream,
                process=process,
                log=log,
                workers_wanted=workers,
                secrets=secrets,
                key_ids=ids,
            )


async def answers(url: str, process: "subprocess.Popen[bytes]", log: Path | None = None) -> None:
    """Waits until there is somebody. Raises RuntimeError."""
    for _ in range(int(START_S * 10)):
        if process.poll() is not None:
            break
        try:
            await asyncio.to_thread(get, url)
            return
        except OSError:  # URLError is one
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{url} does not answer:\n{await asyncio.to_thread(log.read_text) if log else ''}")


async def seen(upstream: int) -> dict[str, Any]:
    """What the model server saw."""
    raw = await asyncio.to_thread(get, f"http://127.0.0.1:{upstream}/seen")
    found: dict[str, Any] = msgspec.json.decode(raw)
    return found


async def ledger() -> list[Admitted | Settled]:
    """Every entry there is."""
    async with open_ledger() as opened:
        return [entry async for entry in opened.entries()]
