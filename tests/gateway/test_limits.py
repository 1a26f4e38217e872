"""Rate limits in one process; `shared/` has those of several on one Redis."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignstack.core.usage import ANYONE, Allowance, Key
from alignstack.gateway import limits as module
from alignstack.gateway.call import Refused
from alignstack.gateway.limits import Headers, Limits
from alignstack.gateway.settings import LimitKeys, PersonLimitKeys, Settings


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def tick(self) -> float:
        return self.time


def limited(clock: Clock, *, person: PersonLimitKeys | None = None, **limits: int) -> Limits:
    keys = LimitKeys.model_validate(limits)
    return Limits(Settings(limits=keys, person_limits=person or PersonLimitKeys()), clock)


async def refusal(limits: Limits, key: Key = ANYONE, person: str = "", tokens: int = 1) -> Refused:
    with pytest.raises(Refused) as caught:
        await limits.admit(key, person, tokens)
    assert (caught.value.status, caught.value.kind) == (429, "rate_limit_error")
    assert caught.value.code == "rate_limit_exceeded"
    return caught.value


async def passes(limits: Limits, key: Key = ANYONE, person: str = "", tokens: int = 1) -> bool:
    try:
        await limits.admit(key, person, tokens)
    except Refused:
        return False
    return True


async def admitted(limits: Limits, times: int, key: Key = ANYONE, person: str = "", tokens: int = 1) -> int:
    """Of so many requests at the same time."""
    return sum(await asyncio.gather(*(passes(limits, key, person, tokens) for _ in range(times))))


async def test_without_limits_nothing_is_counted_or_said() -> None:
    limits = limited(Clock())
    assert await limits.admit(ANYONE, "somebody", 10**9) is module.NONE


async def test_the_whole_limit_may_come_at_once_and_then_one_at_a_time() -> None:
    clock = Clock()
    limits = limited(clock, requests_per_minute=7)
    assert await admitted(limits, 20) == 7
    clock.time += 60 / 7
    assert await admitted(limits, 20) == 1
    clock.time += 3600
    assert await admitted(limits, 20) == 7


async def test_headers_count_down_and_refill() -> None:
    clock = Clock()
    limits = limited(clock, requests_per_minute=60, tokens_per_minute=6000)
    assert await limits.admit(ANYONE, "", 120) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5880",
        "x-ratelimit-reset-tokens": "1.2s",
    }
    clock.time += 2
    assert (await limits.admit(ANYONE, "", 0))["x-ratelimit-remaining-tokens"] == "6000"


async def test_a_refusal_says_when_to_come_back_and_that_is_enough() -> None:
    clock = Clock()
    limits = limited(clock, requests_per_minute=10)
    assert await admitted(limits, 10) == 10
    refused = await refusal(limits)
    assert refused.headers["retry-after"] == "6"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "60s"
    assert "10 requests a minute" in refused.message
    clock.time += 6
    assert await admitted(limits, 5) == 1


async def test_waiting_less_than_a_second_is_said_as_one() -> None:
    limits = limited(Clock(), requests_per_minute=600)
    assert await admitted(limits, 600) == 600
    assert (await refusal(limits)).headers["retry-after"] == "1"


async def test_a_request_larger_than_the_limit_is_told_that_it_never_passes() -> None:
    limits = limited(Clock(), tokens_per_minute=100)
    refused = await refusal(limits, tokens=101)
    assert "never pass" in refused.message
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert await passes(limits, tokens=100)


async def test_what_one_limit_refuses_uses_up_none_of_another() -> None:
    limits = limited(Clock(), requests_per_minute=3, tokens_per_minute=100)
    assert await passes(limits, tokens=90)
    assert await admitted(limits, 50, tokens=20) == 0
    assert await admitted(limits, 50, tokens=5) == 2


async def test_keys_do_not_share_and_may_have_limits_of_their_own() -> None:
    limits = limited(Clock(), requests_per_minute=2)
    assert await admitted(limits, 5, Key(id="a")) == 2
    assert await admitted(limits, 5, Key(id="b")) == 2
    assert await admitted(limits, 5, Key(id="c", allowance=Allowance(requests_per_minute=4))) == 4
    assert await admitted(limits, 5, Key(id="d", allowance=Allowance())) == 5


async def test_people_are_limited_each_and_apart_for_every_key() -> None:
    limits = limited(Clock(), person=PersonLimitKeys(requests_per_minute=2))
    assert await admitted(limits, 5, Key(id="a"), "ann") == 2
    assert await admitted(limits, 5, Key(id="a"), "bob") == 2
    assert await admitted(limits, 5, Key(id="b"), "ann") == 2
    assert await admitted(limits, 5, Key(id="a")) == 5
    assert "this safety_identifier" in (await refusal(limits, Key(id="a"), "ann")).message


async def test_headers_tell_the_tighter_of_two_limits() -> None:
    limits = limited(Clock(), requests_per_minute=100, person=PersonLimitKeys(requests_per_minute=3))
    assert (await limits.admit(ANYONE, "ann", 1))["x-ratelimit-remaining-requests"] == "2"
    assert (await limits.admit(ANYONE, "", 1))["x-ratelimit-remaining-requests"] == "98"


async def test_any_text_may_name_a_person() -> None:
    limits = limited(Clock(), person=PersonLimitKeys(requests_per_minute=1))
    for person in ("\ud800", "{x}:r", "a" * 100_000, "\x00\r\n"):
        assert await admitted(limits, 3, person=person) == 1


async def test_invented_people_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUCKETS", 100)
    limits = limited(Clock(), requests_per_minute=10_000, person=PersonLimitKeys(requests_per_minute=1))
    buckets = limits._buckets
    assert isinstance(buckets, module.MemoryBuckets)
    for number in range(1000):
        headers: Headers = await limits.admit(ANYONE, f"person {number}", 1)
    assert len(buckets._full_at) == 100
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert (await limits.admit(ANYONE, "", 1))["x-ratelimit-remaining-requests"] == "8999"  # the key's own stays


async def test_full_buckets_are_forgotten() -> None:
    clock = Clock()
    limits = limited(clock, person=PersonLimitKeys(requests_per_minute=1))
    for number in range(50):
        assert await passes(limits, person=f"person {number}")
    clock.time += 61
    assert await passes(limits, person="another")
    assert isinstance(limits._buckets, module.MemoryBuckets)
    assert len(limits._buckets._full_at) == 1


@settings(max_examples=60, deadline=None)
@given(
    requests=st.integers(1, 40),
    tokens=st.integers(1, 400),
    waves=st.lists(st.tuples(st.floats(0, 30), st.lists(st.integers(0, 60), max_size=30)), max_size=6),
)
async def test_no_more_is_ever_admitted_than_the_limits(
    requests: int, tokens: int, waves: list[tuple[float, list[int]]]
) -> None:
    """In every stretch of S seconds at most limit × (1 + S / 60), of requests and of tokens, whatever order tasks run
    in."""
    clock = Clock()
    limits = limited(clock, requests_per_minute=requests, tokens_per_minute=tokens)
    let_in: list[tuple[float, int]] = []
    for wait, costs in waves:
        clock.time += wait
        results = await asyncio.gather(*(passes(limits, tokens=cost) for cost in costs))
        let_in += [(clock.time, cost) for cost, passed in zip(costs, results, strict=True) if passed]
    for start, _ in let_in:
        for end in {at for at, _ in let_in if at >= start}:
            inside = [cost for at, cost in let_in if start <= at <= end]
            share = 1 + (end - start) / 60 + 1e-6
            assert len(inside) <= requests * share and sum(inside) <= tokens * share
