"""Counts in a real Redis: once for all processes, and an error when it is not there."""

import socket
import subprocess
import sys
import time

import pytest

from alignstack import policy
from alignstack.core.errors import ConfigError
from alignstack.core.layer import View
from alignstack.core.messages import user
from alignstack.layers.rate_limit import RateLimit, RateLimitConfig

VIEW = View(phase="request", messages=user("hi"), caller="ann")

FLOOD = """
import asyncio, sys
from alignstack import policy
from alignstack.core.layer import View
from alignstack.core.messages import user
from alignstack.layers.rate_limit import RateLimit, RateLimitConfig

async def flood():
    config = RateLimitConfig(requests_per_hour=70, requests_per_minute=60, storage=sys.argv[1])
    limit = RateLimit(config, name="flood", phase=None, hazards=None, policy=policy.load())
    view = View(phase="request", messages=user("hi"), caller="ann")
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(10):
        for verdict in await asyncio.gather(*(limit.check(view) for _ in range(10))):
            print(verdict.action)

asyncio.run(flood())
"""


def layer(storage: str, name: str = "rate_limit") -> RateLimit:
    config = RateLimitConfig(requests_per_minute=2, storage=storage)
    return RateLimit(config, name=name, phase=None, hazards=None, policy=policy.load())


async def test_requests_are_counted_in_redis(redis_port: int) -> None:
    limit = layer(f"redis://:hunter2@127.0.0.1:{redis_port}")
    verdicts = [await limit.check(VIEW) for _ in range(3)]
    assert [verdict.action for verdict in verdicts] == ["allow", "allow", "block"]
    assert verdicts[2].reason == "the limit of 2 per minute is used up"
    assert not limit.info.quick


async def test_layers_of_another_name_count_apart(redis_port: int) -> None:
    storage = f"redis://:hunter2@127.0.0.1:{redis_port}/1"
    for name in ("one", "two"):
        assert (await layer(storage, name).check(VIEW)).action == "allow"


def test_two_processes_admit_exactly_the_limit_together(redis_port: int) -> None:
    command = [sys.executable, "-c", FLOOD, f"redis://:hunter2@127.0.0.1:{redis_port}"]
    floods = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for flood in floods:
        assert flood.stdout is not None and flood.stdout.readline() == "ready\n"
    for flood in floods:
        assert flood.stdin is not None
        flood.stdin.write("go\n")
        flood.stdin.flush()
    said = [flood.communicate(timeout=60) for flood in floods]
    assert [flood.returncode for flood in floods] == [0, 0], said
    actions = [action for out, _ in said for action in out.split()]
    assert (len(actions), actions.count("allow")) == (200, 60)


@pytest.mark.parametrize("password", ["hunter2", "wrong-hunter3"])
async def test_no_redis_and_a_wrong_password_are_errors_that_tell_no_password(redis_port: int, password: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = listening.getsockname()[1]
    port = closed if password == "hunter2" else redis_port
    limit, started = layer(f"redis://:{password}@127.0.0.1:{port}"), time.monotonic()
    with pytest.raises(Exception, match=r"(?i)connect|password") as caught:
        await limit.check(VIEW)
    assert password not in str(caught.value) and password not in repr(caught.value)
    assert time.monotonic() - started < 15


def test_an_address_that_cannot_be_read_is_an_error_without_the_password() -> None:
    with pytest.raises(ConfigError, match="cannot use a 'redis' storage") as caught:
        layer("redis://:hunter2@127.0.0.1:port")
    assert "hunter2" not in str(caught.value) and "redis-py" in str(caught.value)
