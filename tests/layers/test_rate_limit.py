import asyncio
import gc
import itertools

import pytest
from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from pydantic import ValidationError

from alignstack import policy
from alignstack.core.errors import ConfigError
from alignstack.core.layer import Phase, View
from alignstack.core.messages import user
from alignstack.layers.rate_limit import InMemory, RateLimit, RateLimitConfig
from alignstack.policy.strict import problems


def layer(*, phase: Phase | None = None, **keys: object) -> RateLimit:
    config = RateLimitConfig.model_validate(keys)
    return RateLimit(config, name="rate_limit", phase=phase, hazards=None, policy=policy.load())


async def ask(limit: RateLimit, caller: str = "", *, audit: bool = False) -> str:
    return (await limit.check(View(phase="request", messages=user("hi"), caller=caller, audit=audit))).action


async def test_second_request_in_window_is_blocked() -> None:
    limit = layer(requests_per_minute=1)
    assert [await ask(limit), await ask(limit)] == ["allow", "block"]


async def test_after_the_window_requests_pass_again() -> None:
    limit = layer(burst=1)
    assert [await ask(limit), await ask(limit)] == ["allow", "block"]
    await asyncio.sleep(1.1)
    assert await ask(limit) == "allow"


async def test_the_reason_names_the_limit_that_is_used_up() -> None:
    limit = layer(requests_per_minute=100, requests_per_hour=1)
    await ask(limit)
    verdict = await limit.check(View(phase="request", messages=user("hi")))
    assert verdict.reason == "the limit of 1 per hour is used up"


async def test_callers_are_counted_apart_unless_all_share_one_limit() -> None:
    apart, together = layer(requests_per_minute=1), layer(requests_per_minute=1, per="everyone")
    assert [await ask(apart, "a"), await ask(apart, "b"), await ask(apart, "a")] == ["allow", "allow", "block"]
    assert [await ask(together, "a"), await ask(together, "b")] == ["allow", "block"]


async def test_requests_without_a_caller_are_one_caller() -> None:
    limit = layer(requests_per_minute=1)
    assert [await ask(limit, ""), await ask(limit, ""), await ask(limit, "a")] == ["allow", "block", "allow"]


async def test_two_layers_do_not_share_their_counts() -> None:
    assert [await ask(layer(requests_per_minute=1)) for _ in range(2)] == ["allow", "allow"]


async def test_what_one_limit_blocks_uses_up_no_other() -> None:
    limit = layer(burst=1, requests_per_minute=2)
    assert [await ask(limit) for _ in range(5)] == ["allow"] + ["block"] * 4
    await asyncio.sleep(1.1)
    assert await ask(limit) == "allow"


async def test_requests_at_the_same_instant_do_not_pass_together() -> None:
    limit = layer(requests_per_minute=10)
    assert sorted(await asyncio.gather(*(ask(limit) for _ in range(50)))) == ["allow"] * 10 + ["block"] * 40


async def test_audits_are_neither_limited_nor_counted() -> None:
    limit = layer(requests_per_minute=1)
    assert [await ask(limit, audit=True) for _ in range(3)] == ["abstain"] * 3
    assert await ask(limit) == "allow"


def test_it_says_that_it_remembers() -> None:
    info = layer(requests_per_minute=1).info
    assert (info.stateful, info.quick, info.kind, info.phases) == (True, True, "veto", ("request",))


async def test_windows_move_with_every_request() -> None:
    limits = (RateLimitItemPerSecond(2), RateLimitItemPerMinute(5))
    moments = iter([0, 0.4, 0.6, 1.2, 1.5, 3, 4, 5, 59, 61.1])
    windows = InMemory(limits, now=lambda: next(moments))
    full = [await windows.exceeded("ann") for _ in range(10)]
    minute, second = limits[1], limits[0]
    assert full == [None, None, second, None, None, None, minute, minute, minute, None]


async def test_it_forgets_who_asks_no_more_and_what_no_limit_needs() -> None:
    seconds = itertools.count()
    windows = InMemory((RateLimitItemPerSecond(3), RateLimitItemPerMinute(70)), now=lambda: next(seconds))
    for caller in range(1_000):
        assert await windows.exceeded(str(caller)) is None
        assert await windows.exceeded("busy") is None
    assert len(windows._callers) < 70
    assert len(windows._callers["busy"]) <= 140


@pytest.mark.filterwarnings("error")
def test_it_survives_its_event_loop_and_leaves_nothing_running() -> None:
    limit = layer(requests_per_minute=1)
    assert [asyncio.run(ask(limit)), asyncio.run(ask(limit))] == ["allow", "block"]
    gc.collect()


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({}, "give at least one of requests_per_minute, requests_per_hour, burst"),
        ({"requests_per_minute": 0}, "layers[0].requests_per_minute: should be greater than or equal to 1"),
        ({"requests_per_minut": 5}, "did you mean 'requests_per_minute'?"),
    ],
)
def test_limits_that_limit_nothing_are_refused(keys: dict[str, object], what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RateLimitConfig.model_validate(keys)
    found = "\n".join(map(str, problems(caught.value, "s.yaml", RateLimitConfig, "layers[0]")))
    assert what in found


def test_unknown_storages_and_phases_are_errors_without_the_password() -> None:
    with pytest.raises(ConfigError, match="cannot use a 'oracle' storage") as caught:
        layer(requests_per_minute=1, storage="oracle://me:hunter2@db")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="works in request, not 'output'"):
        layer(requests_per_minute=1, phase="output")
