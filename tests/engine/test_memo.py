"""The memo: never the same question twice, not even at the same time."""

import asyncio

import pytest

from alignstack.engine.memo import Memo


class Source:
    def __init__(self) -> None:
        self.calls = 0

    async def answer(self) -> int:
        self.calls += 1
        await asyncio.sleep(0.01)
        return self.calls


async def test_an_answer_is_remembered() -> None:
    memo, source = Memo(), Source()
    assert [await memo.get("k", source.answer) for _ in range(3)] == [1, 1, 1]
    assert (memo.hits, memo.misses, memo.size) == (2, 1, 1)


async def test_tasks_that_ask_at_the_same_time_share_one_call() -> None:
    memo, source = Memo(), Source()
    assert await asyncio.gather(*(memo.get("k", source.answer) for _ in range(10))) == [1] * 10
    assert source.calls == 1


async def test_what_is_not_worth_keeping_is_forgotten() -> None:
    memo, source = Memo(), Source()
    for expected in (1, 2):
        assert await memo.get("k", source.answer, keep=lambda value: False) == expected


async def test_an_exception_reaches_everyone_and_is_forgotten() -> None:
    memo = Memo()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    results = await asyncio.gather(*(memo.get("k", fail) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3
    assert await memo.get("k", Source().answer) == 1


async def test_a_cancelled_waiter_leaves_the_call_to_the_others() -> None:
    memo, source = Memo(), Source()
    first = asyncio.ensure_future(memo.get("k", source.answer))
    second = asyncio.ensure_future(memo.get("k", source.answer))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_the_least_recently_used_answer_makes_room() -> None:
    memo, source = Memo(limit=2), Source()
    for key in ("a", "b", "a", "c"):
        await memo.get(key, source.answer)
    calls = source.calls
    await memo.get("a", source.answer)
    assert source.calls == calls
    await memo.get("b", source.answer)
    assert source.calls == calls + 1
