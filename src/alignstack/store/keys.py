"""API keys. Only the SHA-256 of a secret is stored.

A plain, fast hash is right for them: slow hashes with salt protect secrets that people choose and others guess, and
these are 256 random bits. Nor need hashes be compared in constant time: how long a look-up takes may tell how much of a
hash was right, but nobody can choose a secret by its hash.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from alignstack.core.errors import NotFound
from alignstack.core.ports import Clock
from alignstack.core.usage import Allowance, Key
from alignstack.store.clock import SystemClock
from alignstack.store.database import Database
from alignstack.store.home import database

PREFIX = "sk-as-"
BYTES = 32
"""Random bytes of a secret: 43 characters of URL-safe base64."""

STALE = 1.0
"""Seconds that a gateway may go on with the keys that it has read; the longest that a revoked key still works."""

COLUMNS = "id, name, admin, allowance, created, expires, revoked, suspended_until"


class SqliteKeys:
    """The keys of one sqlite file, for `path` None this machine's own store. `draw(n)`: n random bytes as URL-safe
    text."""

    def __init__(
        self, path: Path | None = None, *, clock: Clock | None = None, draw: Callable[[int], str] = token_urlsafe
    ) -> None:
        self._database = Database(path or database())
        self._clock = clock or SystemClock()
        self._draw = draw

    def add(
        self, name: str, *, admin: bool = False, allowance: Allowance | None = None, expires: float | None = None
    ) -> tuple[Key, str]:
        """A new key and its secret, which nobody can read again. `expires`: seconds since 1970."""
        secret = PREFIX + self._draw(BYTES)
        key = Key(
            id=f"key-{digest(secret)[:12]}", name=name, admin=admin, allowance=allowance, created=self._clock.now(),
            expires=expires,
        )  # fmt: skip
        limits = None if allowance is None else json.dumps(asdict(allowance))
        self._database.write(
            f"INSERT INTO keys (hash, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            digest(secret), key.id, name, admin, limits, key.created, expires,
        )  # fmt: skip
        return key, secret

    def find(self, secret: str) -> Key | None:
        """The key with this secret, also one that may not be used any more."""
        rows = self._database.rows(f"SELECT {COLUMNS} FROM keys WHERE hash = ?", digest(secret))
        return _key(rows[0]) if rows else None

    def all(self) -> list[Key]:
        """Oldest first."""
        return [_key(row) for row in self._database.rows(f"SELECT {COLUMNS} FROM keys ORDER BY created, id")]

    def by_hash(self) -> dict[str, Key]:
        """By the SHA-256 of their secrets."""
        return {row[0]: _key(row[1:]) for row in self._database.rows(f"SELECT hash, {COLUMNS} FROM keys")}

    def revoke(self, key_id: str) -> None:
        """For good. Raises NotFound."""
        self._change("revoked = coalesce(revoked, ?)", self._clock.now(), key_id)

    def suspend(self, key_id: str, until: float) -> None:
        """Until then (seconds since 1970), in place of a suspension that was there. Raises NotFound."""
        self._change("suspended_until = ?", until, key_id)

    def changed(self) -> int:
        """Goes up with every change, whichever process made it; costs one row."""
        return int(self._database.rows("SELECT changes FROM keys_version")[0][0])

    def close(self) -> None:
        self._database.close()

    def _change(self, what: str, value: float, key_id: str) -> None:
        if not self._database.write(f"UPDATE keys SET {what} WHERE id = ?", value, key_id):
            raise NotFound("key", key_id, [key.id for key in self.all()])


class KeyRing:
    """The keys in memory, at most a second old: what a gateway asks at every request. Raises Unavailable when the file
    cannot be read."""

    def __init__(self, keys: SqliteKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._version, self._read = keys.changed(), clock.tick()
        self._by_hash: Mapping[str, Key] = keys.by_hash()

    @property
    def any(self) -> bool:
        """Has a key ever been made? Then nobody comes in without one, be they all revoked."""
        self._refresh()
        return bool(self._by_hash)

    def lookup(self, secret: str) -> Key | None:
        """None for a secret that is not known, revoked or expired. A suspended key is found; see
        `Key.suspended_until`."""
        self._refresh()
        key = self._by_hash.get(digest(secret))
        return key if key is not None and key.usable(self._clock.now()) else None

    def _refresh(self) -> None:
        now = self._clock.tick()
        if now - self._read < STALE:
            return
        version = self._keys.changed()
        if version != self._version:
            self._by_hash, self._version = self._keys.by_hash(), version
        self._read = now


def digest(secret: str) -> str:
    """Any text: what clients send need not be one of ours."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: tuple[Any, ...]) -> Key:
    name, title, admin, allowance, created, expires, revoked, suspended_until = row
    return Key(
        id=name, name=title, admin=bool(admin), created=created, expires=expires, revoked=revoked,
        suspended_until=suspended_until, allowance=None if allowance is None else Allowance(**json.loads(allowance)),
    )  # fmt: skip
