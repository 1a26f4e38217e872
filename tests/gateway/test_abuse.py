"""Signals on the requests of one key, and what follows them."""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from alignstack.core.errors import Unavailable
from alignstack.core.usage import Admitted, Allowance, Settled, Status
from alignstack.gateway import abuse
from alignstack.gateway.abuse import MAX_ROWS, Monitor, signals
from alignstack.gateway.settings import AbuseKeys, Settings, TraceKeys
from alignstack.store.keys import SqliteKeys
from alignstack.store.ledger import SqliteLedger
from alignstack.store.writer import Writer

NOW = 1_800_000_000.0
SECRET = "hunter2-not-to-be-seen"


@dataclass(frozen=True, slots=True)
class Row:
    at: float
    status: str = "delivered"
    hazard: str = ""


def rows(statuses: Sequence[str], *, seconds: float = 120.0) -> list[Row]:
    """Requests spread evenly over the last so many seconds, which end as said."""
    return [Row(NOW - seconds + seconds * n / len(statuses), status) for n, status in enumerate(statuses)]


def names(found: Sequence[Row], settings: AbuseKeys | None = None) -> list[str]:
    return [signal.signal for signal in signals(found, now=NOW, settings=settings or AbuseKeys())]


def mixed(blocked: int, delivered: int) -> list[Row]:
    """In pairs, and then what is left."""
    pairs = min(blocked, delivered)
    return rows(
        ["blocked", "delivered"] * pairs + ["blocked"] * (blocked - pairs) + ["delivered"] * (delivered - pairs)
    )


NO_STREAK = AbuseKeys(streak=1000)


def test_no_requests_no_signals() -> None:
    assert names([]) == []


def test_ordinary_use_gives_no_signal() -> None:
    assert names(mixed(10, 90)) == []


def test_block_rate_needs_requests_enough_for_no_doubt() -> None:
    assert names(mixed(1, 0), NO_STREAK) == []
    assert names(mixed(19, 0), NO_STREAK) == []
    assert names(mixed(11, 9), NO_STREAK) == []  # 55%, with an interval from 34% to 74%
    assert names(mixed(16, 4), NO_STREAK) == ["block_rate"]


def test_block_rate_tells_its_numbers() -> None:
    [signal] = signals(mixed(16, 4), now=NOW, settings=NO_STREAK)
    assert (signal.signal, signal.requests, signal.blocked, signal.threshold) == ("block_rate", 20, 16, 0.5)
    assert signal.value == pytest.approx(0.584, abs=1e-3)


def test_a_cut_stream_counts_as_blocked_and_a_fault_says_nothing() -> None:
    assert names(rows(["cut"] * 20), NO_STREAK) == ["block_rate"]
    assert names(rows(["unavailable", "abandoned", ""] * 20)) == []
    assert names(rows(["refused"] * 40)) == []


def test_streak_is_blocked_requests_one_after_another() -> None:
    assert names(rows(["blocked"] * 4 + ["delivered"] + ["blocked"] * 4)) == []
    assert names(rows(["delivered", *["blocked"] * 5, "delivered"])) == ["streak"]
    assert names(rows(["blocked", "unavailable"] * 5)) == ["streak"]


def test_attempts_at_a_jailbreak_count_for_a_streak_whatever_became_of_them() -> None:
    attempts = [Row(NOW - n, "refused", "jailbreak") for n in range(5, 0, -1)]
    assert names(attempts) == ["streak"]
    assert names([Row(row.at, row.status, "ncr") for row in attempts]) == []


def test_spike_is_measured_against_the_keys_own_past() -> None:
    past = [Row(NOW - 600 + n) for n in range(0, 540, 60)]  # one a minute
    assert names(past + [Row(NOW - 30)] * 9) == []
    assert names(past + [Row(NOW - 30)] * 30) == ["spike"]
    [spike] = signals(past + [Row(NOW - 30)] * 30, now=NOW, settings=AbuseKeys())
    assert spike.requests == 30
    assert spike.value == pytest.approx(30)
    busy = [Row(NOW - 600 + n) for n in range(0, 540, 6)]  # ten a minute
    assert names(busy + [Row(NOW - 30)] * 30) == []


def test_a_key_that_has_just_begun_has_no_spike() -> None:
    assert names([Row(NOW - 30)] * 1000) == []
    assert names([Row(NOW - 100 + n / MAX_ROWS) for n in range(MAX_ROWS)] + [Row(NOW - 1)] * MAX_ROWS) == []


def test_what_lies_before_the_window_does_not_count() -> None:
    assert names([Row(NOW - 601, "blocked")] * 50) == []


@given(st.lists(st.tuples(st.floats(0, 1200), st.sampled_from(["delivered", "blocked", "cut", "", "refused"]))))
def test_any_rows_give_numbers_that_agree_with_each_other(drawn: list[tuple[float, str]]) -> None:
    found = [Row(NOW - age, status) for age, status in sorted(drawn, reverse=True)]
    for signal in signals(found, now=NOW, settings=AbuseKeys(min_requests=1, streak=2, spike=1.5)):
        assert 0 <= signal.blocked <= signal.requests <= len(found)
        assert signal.value >= signal.threshold


class Clock:
    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> float:
        return self.time

    def tick(self) -> float:
        return self.time


@dataclass
class Receiver:
    """A webhook's other end: a real HTTP server that keeps what it was sent."""

    url: str = ""
    status: int = 200
    got: list[tuple[bytes, str]] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        self.got.append((await request.read(), request.headers.get("x-alignstack-signature", "")))
        return web.Response(status=self.status, headers={"location": self.url})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{rest:.*}", receiver.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/{SECRET}"
    yield receiver
    await runner.cleanup()


@dataclass(kw_only=True)
class Gateway:
    """A real ledger, a real store of keys with one key in it, and a clock that stands still."""

    ledger: SqliteLedger
    keys: SqliteKeys
    clock: Clock
    sent: int = 0

    @property
    def key(self) -> str:
        return self.keys.all()[0].id

    def monitor(self, **abuse: object) -> Monitor:
        settings = Settings(abuse=AbuseKeys.model_validate(abuse), traces=TraceKeys(all_layers=0.1))
        return Monitor(settings, self.ledger, self.keys, self.clock)

    async def send(self, monitor: Monitor, *statuses: Status | Literal[""]) -> None:
        """One request for each status; an empty one stays under way."""
        for status in statuses:
            self.sent += 1
            self.clock.time += 0.001
            monitor.delay(self.key)
            await self.ledger.admit(Admitted(id=f"t{self.sent}", at=self.clock.time, key=self.key), Allowance())
            if status:
                await self.ledger.settle(Settled(id=f"t{self.sent}", at=self.clock.time, status=status))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    clock = Clock()
    keys = SqliteKeys(tmp_path / "keys.db", clock=clock)
    keys.add("one")
    async with aclosing(Writer(tmp_path / "ledger.db")) as writer, aclosing(SqliteLedger(writer)) as ledger:
        yield Gateway(ledger=ledger, keys=keys, clock=clock)
    keys.close()


ATTACK: list[Status] = ["blocked"] * 5


async def test_a_signal_is_one_line_in_the_log_with_its_numbers(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = gateway.monitor()
    await gateway.send(monitor, *ATTACK)
    await monitor.look()
    [record] = caplog.records
    assert record.getMessage() == (
        f"abuse signal streak key={gateway.key} requests=5 blocked=5 value=5 threshold=5 actions="
    )


async def test_without_actions_nothing_else_follows(gateway: Gateway) -> None:
    monitor = gateway.monitor()
    await gateway.send(monitor, *ATTACK)
    await monitor.look()
    assert (monitor.delay(gateway.key), monitor.sample(gateway.key)) == (0.0, 0.1)
    assert gateway.keys.all()[0].suspended_until is None


async def test_the_key_and_no_other_is_slowed_down_and_sampled_for_a_window(gateway: Gateway) -> None:
    monitor = gateway.monitor(actions={"streak": ["slow_down", "shadow_sample"]}, slow_down_seconds=3)
    await gateway.send(monitor, *ATTACK)
    await monitor.look()
    assert (monitor.delay(gateway.key), monitor.sample(gateway.key)) == (3.0, 1.0)
    assert (monitor.delay("another"), monitor.sample("another")) == (0.0, 0.1)
    gateway.clock.time += 601
    assert (monitor.delay(gateway.key), monitor.sample(gateway.key)) == (0.0, 0.1)


async def test_the_key_is_suspended_until(gateway: Gateway) -> None:
    monitor = gateway.monitor(actions={"streak": ["suspend"]}, suspend_minutes=5)
    await gateway.send(monitor, *ATTACK)
    await monitor.look()
    assert gateway.keys.all()[0].suspended_until == gateway.clock.time + 300


async def test_a_key_that_is_in_no_store_is_said_not_to_be_suspended(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = gateway.monitor(actions={"streak": ["suspend", "slow_down"]})
    for number in range(5):
        entry = Admitted(id=f"a{number}", at=gateway.clock.time, key="anonymous")
        await gateway.ledger.admit(entry, Allowance())
        await gateway.ledger.settle(Settled(id=entry.id, at=entry.at, status="blocked"))
    monitor.delay("anonymous")
    await monitor.look()
    assert "key anonymous was not suspended" in caplog.text
    assert monitor.delay("anonymous") == 2.0


async def test_each_signal_fires_once_a_window(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    monitor = gateway.monitor()
    for _ in range(3):
        await gateway.send(monitor, *ATTACK)
        await monitor.look()
    assert len(caplog.records) == 1
    gateway.clock.time += 601
    await gateway.send(monitor, *ATTACK)
    await monitor.look()
    assert len(caplog.records) == 2


async def test_a_request_that_is_under_way_is_looked_at_again(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = gateway.monitor()
    await gateway.send(monitor, *ATTACK[:4], "")
    await monitor.look()
    assert not caplog.records
    await gateway.ledger.settle(Settled(id="t5", at=gateway.clock.time, status="cut"))
    await monitor.look()
    assert len(caplog.records) == 1


async def test_a_key_is_looked_at_again_when_the_ledger_could_not_be_read(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    @dataclass
    class Once:
        """Fails the first time."""

        failed: bool = False

        async def recent(self, key: str, since: float, limit: int) -> Sequence[abuse.Row]:
            if not self.failed:
                self.failed = True
                raise Unavailable("the ledger cannot be read")
            return await gateway.ledger.recent(key, since, limit)

    monitor = Monitor(Settings(), Once(), gateway.keys, gateway.clock)
    await gateway.send(monitor, *ATTACK)
    with pytest.raises(Unavailable):
        await monitor.look()
    await monitor.look()
    assert "abuse signal streak" in caplog.text


async def test_the_monitor_outlives_a_fault(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abuse, "INTERVAL", 0.01)
    looked = asyncio.Event()

    class Broken:
        tries = 0

        async def recent(self, key: str, since: float, limit: int) -> Sequence[abuse.Row]:
            self.tries += 1
            if self.tries > 1:
                looked.set()
            raise ZeroDivisionError

    monitor = Monitor(Settings(), Broken(), gateway.keys, gateway.clock)
    monitor.delay(gateway.key)
    task = asyncio.create_task(monitor.run())
    await asyncio.wait_for(looked.wait(), 10)
    task.cancel()
    assert "not looked at for abuse" in caplog.text


async def test_the_webhook_gets_signed_json(gateway: Gateway, receiver: Receiver) -> None:
    monitor = gateway.monitor(actions={"streak": ["webhook"]}, webhook=receiver.url, webhook_secret=SECRET)
    await gateway.send(monitor, *ATTACK)
    await monitor.look()
    [(body, signature)] = receiver.got
    assert signature == "sha256=" + hmac.new(SECRET.encode(), body, "sha256").hexdigest()
    message = json.loads(body)
    assert message.pop("id") == f"{gateway.key}-streak-{int(gateway.clock.time // 600)}"
    assert message == {
        "key": gateway.key, "at": gateway.clock.time, "actions": ["webhook"], "signal": "streak", "requests": 5,
        "blocked": 5, "value": 5, "threshold": 5,
    }  # fmt: skip


async def test_without_a_secret_there_is_no_signature(gateway: Gateway, receiver: Receiver) -> None:
    monitor = gateway.monitor(actions={"streak": ["webhook"]}, webhook=receiver.url)
    await gateway.send(monitor, *ATTACK)
    await monitor.look()
    assert [signature for _, signature in receiver.got] == [""]


@pytest.mark.parametrize("status", [500, 302])
async def test_a_webhook_that_fails_is_logged_without_its_address_and_not_followed(
    gateway: Gateway, receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="alignstack")
    receiver.status = status
    monitor = gateway.monitor(actions={"streak": ["webhook"]}, webhook=receiver.url, webhook_secret=SECRET)
    await gateway.send(monitor, *ATTACK)
    await monitor.look()
    assert len(receiver.got) == 1
    assert f"the abuse webhook answered {status}" in caplog.messages
    assert not [message for message in caplog.messages if SECRET in message]


async def test_a_webhook_that_is_not_there_or_hangs_stops_nothing(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abuse, "WEBHOOK_SECONDS", 0.1)
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    for address in (f"http://127.0.0.1:{port}/{SECRET}", f"http://127.0.0.1:1/{SECRET}"):
        monitor = gateway.monitor(actions={"streak": ["webhook", "slow_down"]}, webhook=address)
        await gateway.send(monitor, *ATTACK)
        await monitor.look()
        assert monitor.delay(gateway.key) == 2.0
    silent.close()
    assert caplog.text.count("the abuse webhook was not reached") == 2
    assert SECRET not in caplog.text
