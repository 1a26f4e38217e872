"""The same behaviour in sqlite and, where it is installed, in PostgreSQL."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from alignstack.core.errors import ConfigError, Unavailable
from alignstack.core.usage import Admitted, Allowance, BudgetSpent, Settled, Status
from alignstack.store.open_ledger import open_ledger
from alignstack.store.schema import STEPS
from tests.store.conftest import AnyLedger

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
FREE = Allowance()


def asked(name: str, at: float = NOON, key: str = "key-1", tokens: int = 100, usd: float = 1.0) -> Admitted:
    return Admitted(
        id=name, at=at, key=key, person=f"person-{name[0]}", route="chat", model="m", tokens=tokens, usd=usd
    )


def ended(name: str, status: Status = "delivered", at: float = NOON + 1, usd: float = 0.25) -> Settled:
    return Settled(
        id=name, at=at, status=status, input_tokens=10, output_tokens=20, usd=usd, layer="in1", hazard="ncr",
        seconds=0.5,
    )  # fmt: skip


async def rows(ledger: AnyLedger) -> list[Admitted | Settled]:
    return [entry async for entry in ledger.entries()]


async def test_what_was_written_comes_back_equal(place: str) -> None:
    async with open_ledger(place) as ledger:
        await ledger.admit(asked("a"), FREE)
        await ledger.settle(ended("a"))
        assert await rows(ledger) == [asked("a"), ended("a")]


async def test_each_entry_is_there_once_however_often_it_is_written(place: str) -> None:
    async with open_ledger(place) as ledger:
        for _ in range(2):
            await ledger.admit(asked("a"), FREE)
            await ledger.admit(asked("a"), Allowance(tokens_per_day=100))
            await ledger.settle(ended("a"))
        await ledger.settle(ended("a", "blocked"))
        assert await rows(ledger) == [asked("a"), ended("a")]
        await ledger.admit(asked("b"), Allowance(tokens_per_day=130, usd_per_day=1.25))


async def test_usage_has_one_line_for_each_key(place: str) -> None:
    statuses: list[Status] = ["delivered", "refused", "blocked", "cut", "unavailable", "abandoned"]
    async with open_ledger(place) as ledger:
        for number, status in enumerate(statuses):
            await ledger.admit(asked(f"{number}"), FREE)
            await ledger.settle(ended(f"{number}", status))
        await ledger.admit(asked("killed"), FREE)
        await ledger.admit(asked("other", key="key-2"), FREE)
        one, two = await ledger.usage()
        assert (one.key, one.requests, one.delivered, one.refused) == ("key-1", 7, 1, 1)
        assert (one.blocked, one.failed, one.people) == (2, 3, 7)
        assert (one.input_tokens, one.output_tokens, one.usd) == (60, 120, 1.5)
        assert (two.key, two.requests, two.failed, two.usd) == ("key-2", 1, 1, 0.0)
        assert await ledger.usage(key="key-2") == [two]
        assert await ledger.usage(since=NOON + 1) == await ledger.usage(until=NOON) == []


async def test_usage_by_day_is_of_utc(place: str) -> None:
    async with open_ledger(place) as ledger:
        for name, at in (("a", NOON), ("b", MIDNIGHT - 0.5), ("c", MIDNIGHT)):
            await ledger.admit(asked(name, at), FREE)
        days = await ledger.usage(by="day")
        assert [(day.key, day.requests) for day in days] == [("2026-11-30", 2), ("2026-12-01", 1)]


async def test_recent_requests_of_a_key_come_oldest_first(place: str) -> None:
    async with open_ledger(place) as ledger:
        for second, name in enumerate("abc"):
            await ledger.admit(asked(name, NOON + second), FREE)
        await ledger.settle(ended("b", "blocked"))
        await ledger.admit(asked("z", key="key-2"), FREE)
        found = await ledger.recent("key-1", NOON + 1)
        assert [(one.at, one.status, one.layer, one.hazard, one.tokens) for one in found] == [
            (NOON + 1, "blocked", "in1", "ncr", 30),
            (NOON + 2, "", "", "", 0),
        ]
        assert await ledger.recent("key-1", NOON, limit=1) == found[1:]
        assert await ledger.recent("key-1", NOON, 2) == found


@pytest.mark.parametrize(
    ("allowance", "resets_at"),
    [
        (Allowance(tokens_per_day=250), MIDNIGHT),
        (Allowance(usd_per_day=2.5), MIDNIGHT),
        (Allowance(usd_per_month=2.5), MIDNIGHT),
        (Allowance(tokens_per_day=1000, usd_per_day=2.5, usd_per_month=100.0), MIDNIGHT),
    ],
)
async def test_request_that_does_not_fit_the_budget_is_refused(
    place: str, allowance: Allowance, resets_at: float
) -> None:
    async with open_ledger(place) as ledger:
        await ledger.admit(asked("a"), allowance)
        await ledger.admit(asked("b"), allowance)
        with pytest.raises(BudgetSpent) as caught:
            await ledger.admit(asked("c"), allowance)
        assert caught.value.resets_at == resets_at
        await ledger.admit(asked("c", key="key-2"), allowance)
        assert [entry.id for entry in await rows(ledger)] == ["a", "b", "c"]


async def test_settling_gives_back_what_was_reserved_and_not_used(place: str) -> None:
    budget = Allowance(tokens_per_day=150, usd_per_month=1.5)
    async with open_ledger(place) as ledger:
        await ledger.admit(asked("a"), budget)
        with pytest.raises(BudgetSpent):
            await ledger.admit(asked("b"), budget)
        await ledger.settle(ended("a"))
        await ledger.admit(asked("b"), budget)
        with pytest.raises(BudgetSpent):
            await ledger.admit(asked("c"), budget)


async def test_file_of_an_older_version_goes_on_counting(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    for statement in (*STEPS[0], *STEPS[1], "PRAGMA user_version=2"):
        old.execute(statement)
    old.execute(
        "INSERT INTO ledger (event, id, at, key, tokens, usd) VALUES ('admitted', 'a', ?, 'key-1', 100, 1)", [NOON]
    )
    old.close()
    async with open_ledger(f"sqlite://{tmp_path / 'ledger.db'}") as ledger:
        await ledger.settle(ended("a"))
        await ledger.settle(ended("never admitted"))
        with pytest.raises(BudgetSpent):
            await ledger.admit(asked("b"), Allowance(tokens_per_day=129))
        await ledger.admit(asked("b"), Allowance(tokens_per_day=130, usd_per_day=1.25))


async def test_request_without_a_budget_counts_for_one_given_later(place: str) -> None:
    async with open_ledger(place) as ledger:
        await ledger.admit(asked("a"), FREE)
        with pytest.raises(BudgetSpent):
            await ledger.admit(asked("b"), Allowance(tokens_per_day=150))


async def test_days_and_months_begin_anew(place: str) -> None:
    day, month = Allowance(tokens_per_day=100), Allowance(usd_per_month=2.0)
    yesterday = NOON - 86_400
    async with open_ledger(place) as ledger:
        await ledger.admit(asked("a", yesterday), day)
        await ledger.admit(asked("b", NOON), day)
        with pytest.raises(BudgetSpent):
            await ledger.admit(asked("c", NOON), month)
        await ledger.admit(asked("c", MIDNIGHT), month)


async def test_many_at_once_never_exceed_a_budget(place: str) -> None:
    budget = Allowance(tokens_per_day=1000)
    async with open_ledger(place) as one, open_ledger(place) as two:
        asking = [ledger.admit(asked(f"{at}-{n}"), budget) for n in range(15) for at, ledger in enumerate((one, two))]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert len(refused) == 20 and {type(outcome) for outcome in refused} == {BudgetSpent}
        assert len(await rows(one)) == 10


async def test_model_name_may_be_anything(place: str) -> None:
    async with open_ledger(place) as ledger:
        await ledger.admit(replace(asked("a"), model="nul \x00, half \ud800, face \U0001f600"), FREE)
        (entry,) = await rows(ledger)
        assert isinstance(entry, Admitted) and entry.model == "nul ?, half ?, face \U0001f600"


KILLED = """
import asyncio, sys
from alignstack.core.usage import Admitted, Allowance, Settled
from alignstack.store.open_ledger import open_ledger

async def one(ledger, worker):
    for n in range(1_000_000):
        name = f"{worker}-{n}"
        await ledger.admit(Admitted(id=name, at=1.0, key="k", tokens=5), Allowance(usd_per_day=1.0 if n % 4 else None))
        print("admitted", name, flush=True)
        await ledger.settle(Settled(id=name, at=2.0, status="delivered", output_tokens=1))
        print("settled", name, flush=True)

async def main():
    async with open_ledger(sys.argv[1]) as ledger:
        await asyncio.gather(*(one(ledger, worker) for worker in range(8)))

asyncio.run(main())
"""


def killed(place: str, after: int) -> list[str]:
    """What a process said was on disk, which was killed after it had said that many lines."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, place], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    *rest, _torn = process.stdout.read().split("\n")
    assert process.wait() == -signal.SIGKILL
    return [line.strip() for line in said] + rest


async def test_everything_acknowledged_before_a_kill_is_there_once(place: str) -> None:
    async with open_ledger(place) as ledger:
        await ledger.usage()
        said = await asyncio.to_thread(killed, place, 400)
        found = Counter(
            f"{'admitted' if isinstance(entry, Admitted) else 'settled'} {entry.id}" for entry in await rows(ledger)
        )
        assert set(said) <= set(found)
        assert set(found.values()) == {1}
        (used,) = await ledger.usage()
        assert used.requests - used.failed == used.delivered > 100


@pytest.mark.parametrize("url", ["mysql://root@/x", "sqlite://", "ledger.db", "postgresql://:::/"])
async def test_url_that_means_no_ledger_is_an_error_with_the_way_out(url: str) -> None:
    with pytest.raises(ConfigError, match=r"postgresql://USER"):
        async with open_ledger(url):
            pass


async def test_errors_do_not_say_the_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("alignstack.store.ledger_postgres.WAIT_S", 0.3)
    async with open_ledger("postgresql://me:open-sesame@127.0.0.1:9/db") as ledger:
        with pytest.raises(Unavailable) as caught:
            await ledger.usage()
    assert "127.0.0.1:9/db" in str(caught.value)
    assert "sesame" not in repr(caught.value) + caplog.text and caught.value.__suppress_context__
