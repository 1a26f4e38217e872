"""`alignstack keys`."""

import re
import time

import pytest

from alignstack.core.usage import Allowance
from alignstack.store.keys import SqliteKeys
from tests.cli.conftest import Cli


def test_secret_is_on_stdout_once_and_alone(cli: Cli) -> None:
    ended = cli("keys", "add", "shop")
    assert re.fullmatch(r"sk-as-[\w-]{43}\n", ended.out) and "cannot be shown again" in ended.err
    key = SqliteKeys().find(ended.out.strip())
    assert key is not None and key.name == "shop" and not key.admin and key.allowance is None
    listed = cli("keys", "ls")
    assert key.id in listed.out and ended.out.strip() not in listed.out + listed.err


def test_key_has_the_limits_it_was_given(cli: Cli) -> None:
    made = cli(
        "keys", "add", "shop", "--admin", "--expires", "30", "--requests-per-minute", "60",
        "--tokens-per-minute", "9000",
        "--concurrent", "4", "--tokens-per-day", "100000", "--usd-per-day", "2.5", "--usd-per-month", "40", "--json",
    ).document  # fmt: skip
    key = SqliteKeys().find(made["secret"])
    assert key is not None and key.admin and key.id == made["id"]
    assert key.allowance == Allowance(
        requests_per_minute=60, tokens_per_minute=9000, concurrent=4, tokens_per_day=100_000, usd_per_day=2.5,
        usd_per_month=40.0,
    )  # fmt: skip
    assert key.expires == pytest.approx(time.time() + 30 * 86_400, abs=600)
    (listed,) = cli("keys", "ls", "--json").document
    assert listed["id"] == key.id and "secret" not in listed and "hash" not in listed
    assert "60 requests per minute, 9000 tokens per minute, 4 concurrent" in " ".join(cli("keys", "ls").out.split())


def test_revoked_and_suspended_keys_are_listed_as_such(cli: Cli) -> None:
    (gone, _), (waits, _) = SqliteKeys().add("gone"), SqliteKeys().add("waits")
    assert cli("keys", "revoke", gone.id).code == 0
    assert cli("keys", "suspend", waits.id, "--minutes", "30", "--json").document["id"] == waits.id
    out = cli("keys", "ls").out
    assert "revoked 2" in out and "suspended until 2" in out


def test_wrong_id_names_the_nearest(cli: Cli) -> None:
    key, _ = SqliteKeys().add("shop")
    ended = cli("keys", "revoke", key.id[:-1])
    assert ended.code == 2 and key.id in ended.err


@pytest.mark.parametrize(
    ("option", "value"), [("--requests-per-minute", "0"), ("--usd-per-day", "-1"), ("--expires", "nan")]
)
def test_limits_that_make_no_sense_are_refused(cli: Cli, option: str, value: str) -> None:
    ended = cli("keys", "add", "shop", option, value)
    assert ended.code == 2 and option in ended.err
    assert SqliteKeys().all() == []


def test_name_cannot_steer_the_terminal(cli: Cli) -> None:
    SqliteKeys().add("\x1b[2Jshop")
    assert "\x1b" not in cli("keys", "ls").out
