"""Work that no client waits for."""

import asyncio
import logging

import pytest

from alignstack.gateway.background import AT_ONCE, Background


async def forever() -> None:
    await asyncio.sleep(3600)


async def test_more_work_than_is_allowed_is_dropped_and_not_kept_waiting() -> None:
    background = Background()
    started = [background.start(forever(), "waiting") for _ in range(AT_ONCE + 3)]
    assert started == [True] * AT_ONCE + [False] * 3
    await background.aclose(0)


async def test_there_is_room_again_when_work_has_ended() -> None:
    background, done = Background(), []

    async def work() -> None:
        done.append(1)

    for _ in range(3 * AT_ONCE):
        assert background.start(work(), "work")
        await asyncio.sleep(0.001)
    assert len(done) == 3 * AT_ONCE


async def test_a_failure_ends_with_a_line_that_quotes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("hunter2")

    caplog.set_level(logging.DEBUG)
    background = Background()
    background.start(fail(), "a run with all layers")
    await background.aclose(10)
    assert "a run with all layers failed: RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text


async def test_closing_waits_for_what_is_nearly_done_and_stops_the_rest() -> None:
    background, ended = Background(), []

    async def soon() -> None:
        await asyncio.sleep(0.01)
        ended.append("soon")

    async def late() -> None:
        try:
            await forever()
        finally:
            ended.append("late")

    background.start(soon(), "soon")
    background.start(late(), "late")
    await background.aclose(0.2)
    assert ended == ["soon", "late"]
    await background.aclose(0.2)
