"""Bodies within limits, whole answers, headers that cannot be broken, and clients that go away."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from alignstack.web.http import (
    LINE,
    Disconnect,
    Encoded,
    Gone,
    Line,
    Receive,
    TooLarge,
    TooSlow,
    body,
    encoded,
    header,
    respond,
)

Message = MutableMapping[str, Any]


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"headers": list(headers)}


def sender(*parts: bytes, wait: float = 0.0, then: str = "http.request") -> Receive:
    """A client that sends the parts, each after `wait` seconds, and then nothing or a farewell."""
    left = list(parts)

    async def receive() -> Message:
        await asyncio.sleep(wait)
        if left:
            part = left.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(left) or then != "http.request"}
        return {"type": then}

    return receive


async def read(receive: Receive, *headers: tuple[bytes, bytes], limit: int = 10, seconds: float = 10) -> bytes:
    return await body(scope(*headers), receive, limit=limit, seconds=seconds)


@pytest.mark.parametrize("parts", [(b"",), (b"0123456789",), (b"01234", b"56789"), tuple(b"%d" % n for n in range(10))])
async def test_a_body_of_the_size_that_is_allowed(parts: tuple[bytes, ...]) -> None:
    assert await read(sender(*parts)) == b"".join(parts)


@pytest.mark.parametrize("parts", [(b"0123456789x",), (b"01234", b"56789x"), (b"", b"0" * 11, b"")])
async def test_a_larger_body_is_too_large(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(TooLarge):
        await read(sender(*parts))


async def test_a_body_that_says_that_it_is_too_large_is_not_waited_for() -> None:
    with pytest.raises(TooLarge):
        await read(sender(b"", wait=60), (b"content-length", b"11"))


async def test_a_length_that_is_none_counts_for_nothing() -> None:
    assert await read(sender(b"abc"), (b"content-length", b"\xb2\xb2\xb2")) == b"abc"


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"identity, gzip", b"\xff"])
async def test_a_compressed_body_is_not_read(coding: bytes) -> None:
    with pytest.raises(Encoded):
        await read(sender(b"abc"), (b"content-encoding", coding))


async def test_a_body_has_so_much_time_however_it_comes() -> None:
    with pytest.raises(TooSlow):
        await read(sender(b"abc", wait=60), seconds=0.05)
    with pytest.raises(TooSlow):
        await read(sender(*[b""] * 1000, wait=0.01), seconds=0.05)


async def test_a_client_that_goes_away_has_sent_nothing() -> None:
    with pytest.raises(Gone):
        await read(sender(then="http.disconnect"))
    with pytest.raises(Gone):
        await read(sender(b"abc", then="http.disconnect"))


def test_the_first_of_several_headers_counts() -> None:
    assert header(scope((b"a", b"1"), (b"b", b"2"), (b"b", b"\xff")), b"b") == "2"
    assert header(scope((b"a", b"\xff")), b"a") == "\xff"
    assert header(scope(), b"a") == ""


async def test_an_answer_says_how_long_it_is() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await respond(send, 200, b"abc", [(b"x", b"y")])
    assert sent[0]["headers"] == [(b"x", b"y"), (b"content-length", b"3")]
    assert sent[1] == {"type": "http.response.body", "body": b"abc"}


@pytest.mark.parametrize("pair", [("a", "b\r\nc: d"), ("a", "b\nc"), ("a", "b\rc"), ("a\r\nb", "c")])
def test_a_header_cannot_be_broken(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="line break"):
        encoded(dict([pair]))


def test_a_header_is_what_the_wire_can_carry() -> None:
    assert encoded({"Retry-After": "7", "x": "é"}) == [(b"retry-after", b"7"), (b"x", b"\xe9")]
    with pytest.raises(UnicodeEncodeError):
        encoded({"x": "\u010d"})
    with pytest.raises(UnicodeEncodeError):
        encoded({"é": "x"})


async def test_who_goes_away_ends_the_work() -> None:
    gone = Disconnect(sender(b"", then="http.disconnect", wait=0.01))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)
    assert gone.happened
    gone.forgive()
    await asyncio.sleep(0)


async def test_once_the_answer_is_on_its_way_nobody_watches() -> None:
    gone = Disconnect(sender(then="http.disconnect", wait=0.01))
    gone.stop()
    await asyncio.sleep(0.05)
    assert not gone.happened


async def never() -> dict[str, object]:
    raise AssertionError("nobody waits here while there is a line")


async def test_a_line_tells_of_the_end_without_a_task_that_waits() -> None:
    line = Line()
    gone = Disconnect(never, line)
    asyncio.get_running_loop().call_later(0.01, line.lose)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)
    assert gone.happened
    gone.forgive()


async def test_a_line_that_was_lost_before_ends_the_work_at_its_next_pause() -> None:
    line = Line()
    line.lose()
    gone = Disconnect(sender(then="http.disconnect"), line)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)
    assert gone.happened
    gone.forgive()


async def test_once_the_answer_is_on_its_way_the_line_may_be_lost() -> None:
    line = Line()
    gone = Disconnect(never, line)
    gone.stop()
    line.lose()
    await asyncio.sleep(0)
    assert line.lost and not gone.happened


async def test_a_body_that_has_come_is_not_timed_and_one_that_has_not_is() -> None:
    line = Line()
    asked = {**scope(), "extensions": {LINE: line}}
    with pytest.raises(TooSlow):
        await body(asked, sender(b"x", wait=0.05), limit=9, seconds=0.01)
    line.complete = True
    assert await body(asked, sender(b"x", wait=0.05), limit=9, seconds=0.01) == b"x"
    with pytest.raises(TooLarge):
        await body(asked, sender(b"x" * 10), limit=9, seconds=0.01)
