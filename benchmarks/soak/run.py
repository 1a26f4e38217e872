"""A thousand clients, a model server that fails in every way, workers that are killed: what has to hold all the same.

    python benchmarks/soak/run.py [--clients 1000] [--seconds 120] [--workers 2] [--kill-every 20] [--redis]

Everything listens on 127.0.0.1. Each client waits `--think` seconds between an answer and its next request. Prints a
table; exits with 1 when something did not hold.
"""

import argparse
import asyncio
import os
import platform
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))  # started as a program, it still belongs to the package
from alignstack.core.usage import Allowance
from benchmarks.soak import checks, gateway, proc
from benchmarks.soak.checks import Check
from benchmarks.soak.clients import Connection, Crowd, Got, Group, asks
from benchmarks.soak.gateway import Serving

KEYS = 10
"""Of the clients that meet no limit."""
A_MINUTE, AT_ONCE = 60, 4
"""What the keys of the other two groups may."""
QUIET_S = 15.0
"""After the last answer, until everything must be as it was; the model server closes idle connections after 4 s."""
REDIS_CONNECTIONS = 256
"""What a worker keeps open to Redis at most."""
WARM_S = 60.0
"""After which caches and windows of a minute are full."""
LAST = 24
"""Slow answers that are under way when the gateway is told to stop."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run."""

    clients: int = 1000
    seconds: float = 120.0
    workers: int = 2
    kill_every: float = 20.0
    """Seconds; 0: no worker is killed."""
    think_s: float = 4.0
    storage: str = "memory://"
    seed: int = 1
    pace: float = 1.0
    """As in `upstream`."""
    without: Sequence[str] = ()
    """Scripts that are not asked for."""

    @property
    def few(self) -> int:
        """Clients of each group that meets limits."""
        return max(self.clients // 80, 6)

    @property
    def keys(self) -> Mapping[str, Allowance]:
        """What each key may use, by group and number."""
        free = Allowance(requests_per_minute=1_000_000, tokens_per_minute=1_000_000_000, concurrent=100_000)
        return {
            **{f"free-{number}": free for number in range(KEYS)},
            "limited-0": Allowance(requests_per_minute=A_MINUTE),
            "capped-0": Allowance(concurrent=AT_ONCE),
        }

    def groups(self, secrets: Mapping[str, str]) -> list[Group]:
        free = tuple(secrets[f"free-{number}"] for number in range(KEYS))
        few, quick = self.few, min(self.think_s, 1.0)
        return [
            Group(name="free", secrets=free, size=self.clients - 2 * few, think_s=self.think_s),
            Group(name="limited", secrets=(secrets["limited-0"],), size=few, think_s=quick, steady=True),
            Group(name="capped", secrets=(secrets["capped-0"],), size=few, think_s=quick / 2, steady=True),
        ]


@dataclass(kw_only=True)
class Watch:
    """The memory of each worker, once a second."""

    serving: Serving
    rss: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    files: int = 0
    """The most that one worker had open."""

    async def run(self) -> None:
        while True:
            for pid in self.serving.workers():
                try:
                    self.rss[pid].append(proc.rss(pid))
                    self.files = max(self.files, len(proc.descriptors(pid)))
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue  # killed meanwhile
            await asyncio.sleep(1)


async def soak(plan: Plan, folder: Path) -> tuple[str, list[Check]]:
    """What was done, and what held. Requires ALIGNSTACK_HOME to be set to a new folder."""
    async with gateway.serving(
        folder, plan.keys, workers=plan.workers, storage=plan.storage, pace=plan.pace
    ) as serving:
        crowd = Crowd(serving.port, plan.seed, pace=plan.pace, without=plan.without)
        base = {pid: serving.held(pid) for pid in serving.workers()}
        watch, seconds = await load(plan, serving, crowd)
        got = list(crowd.got)
        after = await rest(plan, serving, base)
        seen = await gateway.seen(serving.upstream_port)
        stopped = await stop(plan, serving, crowd)
        ledger = await gateway.ledger()
    counting = 1 if plan.storage != "memory://" else plan.workers + len(serving.killed)
    found = [
        checks.unchecked(crowd.got),
        checks.well_formed(crowd.got, serving.killed, Connection.stray, crowd.refused),
        checks.outcomes(crowd.got),
        checks.accounted(crowd.got, ledger, serving.killed, seen["numbers"], serving.key_ids),
        checks.rate(ledger, serving.key_ids["limited-0"], A_MINUTE, counting),
        checks.concurrency(seen["peak"].get("capped", 0), AT_ONCE, counting),
        after,
        *memory(plan, watch, base.keys() - {kill.pid for kill in serving.killed}),
        stopped,
    ]  # fmt: skip
    return said(plan, got, seconds, watch), found


def memory(plan: Plan, watch: Watch, workers: Iterable[int]) -> list[Check]:
    """Of those that lived from the beginning to the end; a run of less than `WARM_S` says nothing."""
    if plan.seconds < WARM_S:
        return []
    return [checks.flat(f"memory of worker {pid}", watch.rss[pid]) for pid in workers]


def said(plan: Plan, got: Sequence[Got], seconds: float, watch: Watch) -> str:
    return (
        f"{plan.clients} clients, {plan.workers} workers, {plan.storage.partition(':')[0]}, seed {plan.seed}: "
        f"{len(got)} requests in {seconds:.0f} s, {len(got) / seconds:.0f} a second; first byte of plain answers "
        f"{checks.milliseconds(got)}; at most {watch.files} open files in one worker\n"
        f"{os.cpu_count()} cores, Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}"
    )


async def load(plan: Plan, serving: Serving, crowd: Crowd) -> tuple[Watch, float]:
    """Until the last client has its last answer. Returns the seconds that it took."""
    watch, began = Watch(serving=serving), time.monotonic()
    chores = [asyncio.ensure_future(watch.run())]
    if plan.kill_every:
        chores.append(asyncio.ensure_future(kills(plan, serving)))
    try:
        await crowd.run(plan.groups(serving.secrets), plan.seconds)
    finally:
        for chore in chores:
            chore.cancel()
        await asyncio.wait(chores)
    for chore in chores:
        if not chore.cancelled():
            chore.result()
    return watch, time.monotonic() - began


async def kills(plan: Plan, serving: Serving) -> None:
    """One worker lives on: its memory is watched."""
    draw, kept = Random(plan.seed), serving.workers()[0]
    for _ in range(int(plan.seconds / plan.kill_every - 0.5)):
        await asyncio.sleep(plan.kill_every)
        await serving.replaced()
        serving.kill(draw.choice([pid for pid in serving.workers() if pid != kept]))


async def rest(plan: Plan, serving: Serving, base: Mapping[int, gateway.Held]) -> Check:
    """Nothing is under way any more, nothing stays open."""
    await serving.replaced()
    problems, until = ["never looked"], time.monotonic() + QUIET_S
    while problems and time.monotonic() < until:
        await asyncio.sleep(0.5)
        problems = await left(plan, serving, base)
    held = "; ".join(str(serving.held(pid)) for pid in serving.workers())
    before = "; ".join(map(str, base.values()))
    return Check(name="nothing stays", said=f"each worker holds {held}; before: {before}", problems=problems)


async def left(plan: Plan, serving: Serving, base: Mapping[int, gateway.Held]) -> list[str]:
    """What a gateway with nothing to do should not have."""
    most = max(held.files for held in base.values()) + (0 if plan.storage == "memory://" else REDIS_CONNECTIONS)
    problems = []
    if under_way := await serving.in_flight():
        problems.append(f"{under_way:g} requests are in flight")
    if open_still := (await gateway.seen(serving.upstream_port))["open"] - 1:  # the one that asks
        problems.append(f"the model server has {open_still} connections")
    for pid in serving.workers():
        held = serving.held(pid)
        if held.clients or held.upstream or held.files > most:
            problems.append(f"worker {pid} holds {held}")
    return problems


async def stop(plan: Plan, serving: Serving, crowd: Crowd) -> Check:
    """SIGTERM while slow answers are under way: they end as they should."""
    last = Group(name="last", secrets=[serving.secrets["free-0"]], size=LAST, think_s=0)
    going = [asyncio.ensure_future(crowd.one(last, ask)) for ask in asks(crowd, "slow", LAST)]
    await asyncio.sleep(plan.pace)
    status, seconds = await serving.stop()
    got = await asyncio.gather(*going)
    whole = sum(one.how == "whole" for one in got)
    log = serving.log.read_text(errors="replace")
    problems = [f"exit status {status}"] if status else []
    problems += [f"it took {seconds:.1f} s"] if seconds > gateway.DRAIN_S + 2 else []
    problems += [f"{len(got) - whole} answers were broken off"] if whole < len(got) else []
    problems += [f"the log says: {line}" for line in log.splitlines() if " error " in line or "Traceback" in line]
    said = (
        f"exit status {status} after {seconds:.1f} s, {whole} slow answers ended; {len(log.splitlines())} lines of log"
    )
    return Check(name="SIGTERM", said=said, problems=problems)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill-every", type=float, default=20, help="seconds; 0: no worker is killed")
    parser.add_argument("--think", type=float, default=4, help="mean seconds between an answer and the next request")
    parser.add_argument("--redis", action="store_true", help="limits are counted in a Redis that is started here")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(argv)
    if chosen.workers < 2 and chosen.kill_every:
        parser.error("with one worker nothing is left when it is killed: use --workers 2 or --kill-every 0")
    return chosen


def raise_limit() -> None:
    """Of open files, as far as this process may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(argv: Sequence[str] | None = None) -> int:
    chosen = options(argv)
    raise_limit()
    with tempfile.TemporaryDirectory(prefix="alignstack-soak-") as folder, ExitStack() as opened:
        os.environ["ALIGNSTACK_HOME"] = str(Path(folder) / "home")
        plan = Plan(
            clients=chosen.clients, seconds=chosen.seconds, workers=chosen.workers, kill_every=chosen.kill_every,
            think_s=chosen.think, seed=chosen.seed,
            storage=opened.enter_context(gateway.redis(Path(folder))) if chosen.redis else "memory://",
        )  # fmt: skip
        head, found = uvloop.run(soak(plan, Path(folder)))
    print(f"{head}\n\n{checks.table(found)}")
    return 1 if any(check.problems for check in found) else 0


if __name__ == "__main__":
    sys.exit(main())
