import re
import sqlite3
from pathlib import Path

import pytest

from alignstack.core.errors import NotFound
from alignstack.core.usage import Allowance, Key
from alignstack.store.keys import KeyRing, SqliteKeys


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def tick(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def keys(tmp_path: Path, clock: Hands) -> SqliteKeys:
    return SqliteKeys(tmp_path / "store.db", clock=clock)


def test_key_is_found_by_its_secret_alone(keys: SqliteKeys) -> None:
    allowance = Allowance(requests_per_minute=5, usd_per_day=2.5)
    key, secret = keys.add("shop", admin=True, allowance=allowance, expires=5000.0)
    assert key == Key(id=key.id, name="shop", admin=True, allowance=allowance, created=1000.0, expires=5000.0)
    assert keys.find(secret) == key and keys.all() == [key]
    assert keys.find(secret[:-1]) is keys.find("") is keys.find("half \ud800") is None


def test_secrets_have_256_random_bits(keys: SqliteKeys) -> None:
    secrets = {keys.add("shop")[1] for _ in range(20)}
    assert len(secrets) == 20
    assert all(re.fullmatch(r"sk-as-[A-Za-z0-9_-]{43}", secret) for secret in secrets)


def test_secret_is_not_in_the_file(keys: SqliteKeys, tmp_path: Path) -> None:
    _, secret = keys.add("shop")
    keys.close()
    assert all(secret[6:].encode() not in path.read_bytes() for path in tmp_path.iterdir())
    with sqlite3.connect(tmp_path / "store.db") as connection:
        assert secret[6:] not in "\n".join(connection.iterdump())


def test_random_source_is_an_argument(tmp_path: Path) -> None:
    assert SqliteKeys(tmp_path / "store.db", draw=lambda count: "x" * 43).add("shop")[1] == "sk-as-" + "x" * 43


def test_revoked_keys_stay_listed(keys: SqliteKeys, clock: Hands) -> None:
    key, _ = keys.add("shop")
    keys.revoke(key.id)
    clock.time = 2000.0
    keys.revoke(key.id)
    assert [key.revoked for key in keys.all()] == [1000.0]


def test_wrong_id_names_the_nearest(keys: SqliteKeys) -> None:
    key, _ = keys.add("shop")
    for change in (keys.revoke, lambda name: keys.suspend(name, 1.0)):
        with pytest.raises(NotFound, match=f"did you mean '{key.id}'"):
            change(key.id[:-1])


def test_every_change_is_seen_by_other_connections(keys: SqliteKeys, tmp_path: Path) -> None:
    other, seen = SqliteKeys(tmp_path / "store.db"), [keys.changed()]
    key, _ = other.add("shop")
    seen.append(keys.changed())
    other.suspend(key.id, 5.0)
    seen.append(keys.changed())
    other.revoke(key.id)
    seen.append(keys.changed())
    assert len(set(seen)) == 4 and seen == sorted(seen)


def test_ring_knows_keys_within_a_second(keys: SqliteKeys, clock: Hands) -> None:
    ring = KeyRing(keys, clock)
    assert not ring.any
    key, secret = keys.add("shop")
    assert ring.lookup(secret) is None
    clock.time += 1.0
    assert ring.lookup(secret) == key and ring.any
    assert ring.lookup("sk-as-" + "x" * 43) is None


def test_ring_lets_no_revoked_or_expired_key_in(keys: SqliteKeys, clock: Hands) -> None:
    (gone, gone_secret), (_, short_secret) = keys.add("gone"), keys.add("short", expires=1010.0)
    ring = KeyRing(keys, clock)
    assert ring.lookup(gone_secret) and ring.lookup(short_secret)
    keys.revoke(gone.id)
    clock.time += 1.0
    assert ring.lookup(gone_secret) is None and ring.lookup(short_secret)
    clock.time = 1010.0
    assert ring.lookup(short_secret) is None
    assert ring.any, "a gateway does not open up because its last key was revoked"


def test_ring_finds_suspended_keys(keys: SqliteKeys, clock: Hands) -> None:
    key, secret = keys.add("shop")
    ring = KeyRing(keys, clock)
    keys.suspend(key.id, 1500.0)
    clock.time += 1.0
    found = ring.lookup(secret)
    assert found is not None and found.suspended_until == 1500.0


def test_ring_reads_the_file_only_when_keys_changed(keys: SqliteKeys, clock: Hands) -> None:
    reads: list[str] = []
    _, secret = keys.add("shop")
    ring = KeyRing(keys, clock)
    keys._database._connection.set_trace_callback(reads.append)
    for _ in range(50):
        clock.time += 0.1
        ring.lookup(secret)
    assert 4 <= len(reads) <= 5 and not any("hash" in statement for statement in reads)
