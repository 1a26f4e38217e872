"""The gateway as a process: one or several uvicorn workers, what each of them opens and closes, reload and draining.

SIGHUP reads the stack and policy files again: new requests use them, streams under way keep what they began with, and a
file with an error changes nothing. SIGTERM stops taking requests and lets running ones end, for `serve.drain_seconds`.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from alignstack import __version__
from alignstack.core.errors import AlignstackError, ConfigError, Problem
from alignstack.gateway.abuse import Monitor
from alignstack.gateway.app import Gateway
from alignstack.gateway.background import Background
from alignstack.gateway.concurrency import Caps
from alignstack.gateway.deployment import Deployment, changed, load
from alignstack.gateway.limits import Limits
from alignstack.gateway.listen import Guarded
from alignstack.gateway.logs import configure
from alignstack.gateway.services import Services
from alignstack.gateway.shared import connect
from alignstack.store.clock import SystemClock
from alignstack.store.home import database
from alignstack.store.keys import KeyRing, SqliteKeys
from alignstack.store.open_ledger import open_ledger
from alignstack.store.traces import SqliteTraces
from alignstack.store.writer import Writer
from alignstack.telemetry.otel import Spans
from alignstack.telemetry.prometheus import Metrics, forget
from alignstack.web.access import check_bind
from alignstack.web.http import Receive, Scope, Send

STACK = "ALIGNSTACK_SERVE_STACK"
"""Tells worker processes which stack file to read."""
LOG = "ALIGNSTACK_SERVE_LOG"
"""Tells them in what form to log."""
RESTART = frozenset({"storage", "ledger", "telemetry", "head_seconds", "drain_seconds", "log"})
"""Settings that a reload does not reach."""
BACKGROUND_S = 5.0
"""That work nobody waits for may go on when the gateway stops; chosen by hand."""
GARBAGE = 20_000
"""New objects between two runs of the garbage collector; Python's own 700 is for short scripts. Chosen by hand."""
FILES = 65_536
"""Open files that a process asks for: one for each connection of a client or to a model server. By hand."""
ACCOUNT_S = 5.0
"""For requests that are stopped to be written down; chosen by hand."""
EXPIRY_S = 600.0
"""Between two looks for traces that are too old; chosen by hand."""

log = logging.getLogger("alignstack.gateway")


def serve(
    stack_file: Path | None, *, host: str, port: int, workers: int, listening: Callable[[str, str], None]
) -> None:
    """Runs until it is told to stop; `listening` is told the address and the stack. Raises ConfigError before anything
    listens, for a stack file with errors and for an address that others could reach without a key."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload; its default ends the process
    deployment = load(stack_file)
    configure(deployment.settings.log)
    check_bind(host, keys=KeyRing(SqliteKeys(), SystemClock()).any)
    os.environ[LOG] = deployment.settings.log
    os.environ[STACK] = str(stack_file.resolve()) if stack_file else ""
    config = uvicorn.Config(
        "alignstack.gateway.server:create",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http=Guarded,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_config=None,
        backlog=2048,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(deployment.settings.drain_seconds)),
    )
    sockets = [_bound(config)]
    _allow_files()
    shown = f"[{host}]" if ":" in host else host
    listening(f"http://{shown}:{sockets[0].getsockname()[1]}/v1", deployment.stack.source)
    try:
        if workers > 1:
            with tempfile.TemporaryDirectory(prefix="alignstack-metrics-") as folder:
                os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
                _Workers(config, sockets).run()
        else:
            _Alone(config).run(sockets=sockets)
    finally:
        for opened in sockets:
            opened.close()


def _bound(config: uvicorn.Config) -> socket.socket:
    """Raises ConfigError for an address that cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen(config.backlog)  # from now on clients wait, and are not turned away, while workers start
    except OSError as error:
        listener.close()
        what = f"cannot listen on {config.host}:{config.port}: {error.strerror}; choose another --port or --host"
        raise ConfigError([Problem(where="--port", what=what)]) from None
    listener.set_inheritable(True)
    return listener


def _allow_files() -> None:
    """Many systems allow a process 1,024 open files until it asks for as many as it may have. Workers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Alone(uvicorn.Server):
    """Having ended in good order is no failure, whatever signal asked for it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()


class _Workers(Multiprocess):
    """uvicorn's own supervisor, which starts a killed worker again. SIGHUP goes on to the workers, which reload."""

    def keep_subprocess_alive(self) -> None:
        before = {worker.process.pid for worker in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {worker.process.pid for worker in self.processes}:
            forget(pid or 0)

    def terminate_all(self) -> None:
        """While any process holds the listening socket, the system takes connections that nobody will serve."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def handle_hup(self) -> None:
        for worker in self.processes:
            if worker.process.pid is not None:
                os.kill(worker.process.pid, signal.SIGHUP)


def create() -> "Worker":
    """What each uvicorn worker calls."""
    configure("json" if os.environ.get(LOG) == "json" else "text")
    stack_file = os.environ.get(STACK)
    return Worker(Path(stack_file) if stack_file else None)


class Worker:
    """One process's gateway and its lifespan."""

    def __init__(self, stack_file: Path | None) -> None:
        self.stack_file = stack_file
        self.gateway = Gateway()
        self.requests = 0
        """Under way."""
        self.idle = asyncio.Event()
        """A request was the last one under way."""
        self.opened = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.requests += 1
            try:
                await self.gateway(scope, receive, send)
            finally:
                self.requests -= 1
                if not self.requests:
                    self.idle.set()
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload_soon)
        try:
            deployment = load(self.stack_file)
            deployment.stack.warm()
            opened = services(deployment)
            self.gateway.services = await opened.__aenter__()
            scope["state"]["head_seconds"] = self.gateway.services.deployment.settings.head_seconds
        except AlignstackError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        self.opened.set()
        _settle_memory()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.gateway.services.draining = True
        await self._accounted()
        await opened.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})

    async def _accounted(self) -> None:
        """Requests that did not end in time have been cancelled; what they used is still to be written down."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ACCOUNT_S):
                while self.requests:
                    self.idle.clear()
                    await self.idle.wait()

    def reload_soon(self) -> None:
        """What SIGHUP asks for, which may come before there is anything to reload."""
        task = asyncio.ensure_future(self._reload_next())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_next(self) -> None:
        """One after the other: the files that were read last are those that stay."""
        await self.opened.wait()
        async with self._reloading:
            await self.reload()

    async def reload(self) -> None:
        """Takes over the files as they are now, or says what is wrong with them and goes on as before. Reading them
        holds up nobody."""
        held = self.gateway.services
        try:
            deployment = await asyncio.to_thread(load, self.stack_file)
            await asyncio.to_thread(deployment.stack.warm)
        except AlignstackError as error:
            log.error("the stack file was not taken over: %s", error)
            held.metrics.reloaded(ok=False)
            return
        if wait := RESTART & changed(held.deployment.settings, deployment.settings):
            log.warning("needs a restart to take effect: %s", ", ".join(f"serve.{name}" for name in sorted(wait)))
        held.adopt(deployment)
        held.metrics.reloaded(ok=True)
        log.warning("serving stack %s", deployment.stack.fingerprint[:12])


def _settle_memory() -> None:
    """What has been loaded stays for good: the garbage collector need not look at it again and again. A request makes
    some hundred objects and no cycles, so it may look less often too; both together save a tenth of its CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 20)


@asynccontextmanager
async def services(deployment: Deployment) -> AsyncIterator[Services]:
    """Everything a worker opens, closed in the end. Raises ConfigError, DataError, Unavailable."""
    async with AsyncExitStack() as opened:
        made = await _opened(deployment, opened)
        chores = [asyncio.ensure_future(chore) for chore in (made.monitor.run(), _expire(made))]
        try:
            yield made
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.wait(chores)
            await made.background.aclose(BACKGROUND_S)


async def _opened(deployment: Deployment, opened: AsyncExitStack) -> Services:
    clock, settings = SystemClock(), deployment.settings
    writer = await opened.enter_async_context(aclosing(Writer(database())))
    ledger = await opened.enter_async_context(open_ledger(settings.ledger, writer))
    keys, metrics = SqliteKeys(clock=clock), Metrics(version=__version__)
    opened.callback(keys.close)
    shared, spans = connect(settings.storage), None
    if shared is not None:
        opened.push_async_callback(shared.close)
    if settings.telemetry.otlp_endpoint:
        spans = Spans(settings.telemetry.otlp_endpoint, version=__version__, content=settings.telemetry.content)
        opened.push_async_callback(asyncio.to_thread, spans.close)
    return Services(
        deployment=deployment,
        clock=clock,
        ring=KeyRing(keys, clock),
        limits=Limits(settings, clock, shared),
        caps=Caps(settings, shared),
        ledger=ledger,
        traces=SqliteTraces(writer=writer),
        metrics=metrics,
        monitor=Monitor(settings, ledger, keys, clock, metrics.signal),
        background=Background(),
        spans=spans,
        writer=writer,
    )


async def _expire(services: Services) -> None:
    """Deletes traces that are older than `serve.traces.keep_days`."""
    while True:
        days = services.deployment.settings.traces.keep_days
        try:
            await asyncio.to_thread(services.traces.expire, services.clock.now() - days * 86_400)
        except AlignstackError as error:
            log.warning("old traces were not deleted: %s", error)
        await asyncio.sleep(EXPIRY_S)
