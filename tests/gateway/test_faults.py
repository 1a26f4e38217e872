"""A model server that fails in every way, clients that go away, workers that are killed: the soak of benchmarks/soak,
small."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.soak import checks
from benchmarks.soak import gateway as deployment
from benchmarks.soak.clients import Connection, Crowd
from benchmarks.soak.run import Plan, soak
from benchmarks.soak.script import BROKEN, GOOD, STOPPED
from tests.gateway.running import gateway

SMALL = Plan(clients=40, seconds=2.5, workers=1, kill_every=0, think_s=0.3, pace=0.25, without=("hang",))
"""`hang` takes as long as the gateway's patience."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALIGNSTACK_HOME", str(tmp_path / "home"))
    return tmp_path


async def test_whatever_the_model_server_does_nothing_leaks_and_everything_is_written_down(home: Path) -> None:
    secrets, ids = deployment.make_keys(SMALL.keys)
    async with deployment.model_server(SMALL.pace) as upstream:
        async with gateway(home, deployment.stack(upstream, SMALL.storage)) as running:
            crowd = Crowd(running.port, SMALL.seed, pace=SMALL.pace, without=SMALL.without)
            before = asyncio.all_tasks()
            await crowd.run(SMALL.groups(secrets), SMALL.seconds)
            assert await settled_down(before) == set(), "tasks that outlive their requests"
            entries = await running.ledger()
        seen = await deployment.seen(upstream)
    assert {got.ask.script.name for got in crowd.got} >= {*GOOD, *STOPPED, *BROKEN} - {"hang"}
    found = [
        checks.unchecked(crowd.got),
        checks.well_formed(crowd.got, [], Connection.stray, crowd.refused),
        checks.outcomes(crowd.got),
        checks.accounted(crowd.got, entries, [], seen["numbers"], ids),
        checks.concurrency(seen["peak"]["capped"], SMALL.keys["capped-0"].concurrent or 0, 1),
    ]
    assert not any(check.problems for check in found), checks.table(found)


async def settled_down(before: set["asyncio.Task[object]"]) -> set["asyncio.Task[object]"]:
    """Tasks that are still there when everything has had time to end."""
    for _ in range(100):
        if not asyncio.all_tasks() - before:
            break
        await asyncio.sleep(0.05)
    return asyncio.all_tasks() - before


async def test_what_was_let_in_is_written_down_once_when_workers_are_killed(home: Path) -> None:
    plan = Plan(
        clients=40, seconds=2.5, workers=2, kill_every=1, think_s=0.3, pace=0.25, without=("hang",), seed=2
    )  # fmt: skip
    head, found = await soak(plan, home)
    assert not any(check.problems for check in found), f"{head}\n{checks.table(found)}"
