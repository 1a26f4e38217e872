"""What a client makes of the bytes of an answer, strictly: what is not exactly as it should be is a problem."""

import json
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
ENDS = ("message_stop", "error", "response.completed", "response.incomplete")


class Malformed(Exception):
    """An answer that no client should get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One answer, or as much of it as came."""

    text: str
    ending: str = ""
    """`stop`, `content_filter`, the code or type of an error, or empty while there is none."""
    is_error: bool = False


def whole(route: str, body: bytes) -> Read:
    """A JSON answer. Raises Malformed."""
    try:
        answer = json.loads(body)
        if answer.get("error"):
            return _error(answer["error"])
        return {"chat": _chat, "responses": _response, "messages": _message}[route](answer)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Malformed(f"{error!r} in {body[:200]!r}") from None


def stream(route: str, raw: bytes, *, ended: bool) -> Read:
    """Events. Raises Malformed; of a stream that has `ended` also when the one thing that ends it does not come exactly
    once, and last."""
    *blocks, rest = raw.split(b"\n\n")
    if ended and (rest or not blocks):
        raise Malformed(f"ends within an event: {raw[-200:]!r}")
    try:
        events = [_event(block) for block in blocks]
        found = {"chat": _chunks, "responses": _events, "messages": _events}[route](events)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Malformed(f"{error!r} in {raw[-300:]!r}") from None
    ends = [number for number, event in enumerate(events) if event is None or event.get("type") in ENDS]
    if ends != [len(events) - 1] if ended else any(number < len(events) - 1 for number in ends):
        raise Malformed(f"terminators at {ends} of {len(events)} events")
    if ended and not found.ending:
        raise Malformed(f"no reason to end in {raw[-300:]!r}")
    return found


def _event(block: bytes) -> Json | None:
    """None for `[DONE]`."""
    *named, data = block.split(b"\n")
    if not data.startswith(b"data: ") or len(named) > 1:
        raise ValueError("not an event")
    if data == b"data: [DONE]":
        return None
    read: Json = json.loads(data[6:])
    if named and named[0] != b"event: " + read["type"].encode():
        raise ValueError("an event with two names")
    return read


def _error(error: Json) -> Read:
    return Read(text="", ending=error.get("code") or error["type"], is_error=True)


def _chat(answer: Json) -> Read:
    (choice,) = answer["choices"]
    return Read(text=choice["message"]["content"], ending=choice["finish_reason"])


def _response(answer: Json) -> Read:
    text = "".join(part["text"] for item in answer["output"] for part in item["content"])
    details = answer["incomplete_details"]
    return Read(text=text, ending=details["reason"] if details else "stop")


def _message(answer: Json) -> Read:
    text = "".join(block["text"] for block in answer["content"])
    return Read(text=text, ending=_reason(answer["stop_reason"]))


def _reason(stop_reason: str) -> str:
    return {"end_turn": "stop", "refusal": "content_filter"}.get(stop_reason, stop_reason)


def _chunks(events: list[Json | None]) -> Read:
    text, ending = "", ""
    for event in events:
        if event is None:
            break
        if event.get("error"):
            return Read(text=text, ending=_error(event["error"]).ending, is_error=True)
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            ending = choice["finish_reason"] or ending
    return Read(text=text, ending=ending)


def _events(events: list[Json | None]) -> Read:
    """Of the two APIs whose events have a type."""
    text, ending = "", ""
    for event in events:
        if event is None:
            raise ValueError("[DONE]")
        match event["type"]:
            case "error":
                return Read(text=text, ending=_error(event["error"]).ending, is_error=True)
            case "content_block_delta":
                text += event["delta"]["text"]
            case "message_delta":
                ending = _reason(event["delta"]["stop_reason"])
            case "response.output_text.delta":
                text += event["delta"]
            case "response.completed" | "response.incomplete":
                last = _response(event["response"])
                if last.text != text:
                    raise ValueError("the last event does not repeat the answer")
                ending = last.ending
    return Read(text=text, ending=ending)
