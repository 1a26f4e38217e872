"""Reading the JSON of a request: whatever a client sends ends in a value of the right type or in `Refused` (400) that
names the key. `take_…` remove the key from the body, so that what is left are the keys that nobody knew."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from alignstack.gateway.call import Refused, bad_request
from alignstack.gateway.dialects.body import encode

MAX_DEPTH = 500
"""Levels of nesting. Half of Python's recursion limit: what was read here must be written again further in."""
MAX_INSIDE = 50_000
"""Lists and objects in one body; long conversations with many tools have some ten thousand. What is done for each of
them holds up all other requests."""
MAX_BRACKETS = 10 * MAX_INSIDE
"""Opening brackets, those in texts included: with more of them a body is not even decoded."""
MAX_TOKENS = 10**9
"""The most that can be asked for; no model comes near, and sums of it fit every database."""

_decode = msgspec.json.Decoder().decode
_TYPES = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}


def parse(body: bytes) -> dict[str, Any]:
    """The object that a request consists of. Raises Refused."""
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > MAX_BRACKETS:
        raise _too_many()
    try:
        value = _decode(body)
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise bad_request(f"the body is not valid JSON: {error}") from None
    if type(value) is not dict:
        raise bad_request(f"the body should be a JSON object, not {kind_of(value)}")
    if brackets > MAX_DEPTH:
        _check_shape(value)
    return value


def _too_many() -> Refused:
    return bad_request(f"the body should hold no more than {MAX_INSIDE} lists and objects")


def _check_shape(value: Any) -> None:
    """Neither too deep nor too wide."""
    level, inside = [value], 0
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        inside += len(level)
        if inside > MAX_INSIDE:
            raise _too_many()
    if level:
        raise bad_request("the body is nested too deeply")


def dump(value: Any, where: str) -> str:
    """JSON of a part of the request, named `where`. Raises Refused."""
    try:
        return encode(value).decode()
    except RecursionError:
        raise bad_request(f"{where} is nested too deeply", param=where) from None


def dump_rest(fields: Mapping[str, Any]) -> str:
    """`Sampling.more` of the keys that are not null. Raises Refused."""
    rest = {key: value for key, value in fields.items() if value is not None}
    return dump(rest, next(iter(rest))) if rest else ""


def quoted(text: str) -> bytes:
    """A text as JSON, on one line."""
    return one_line(encode(text))


def one_line(data: bytes) -> bytes:
    """JSON for an event stream. Many clients cut lines at every line end that Unicode has."""
    if data.isascii():
        return data
    return (
        data.replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029").replace(b"\xc2\x85", rb"\u0085")
    )


def counted(usage: str, group: str, key: str) -> int:
    """A number of `Ending.usage`, 0 where the model server said nothing that is one."""
    try:
        value = _decode(usage)[group][key] if usage else 0
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError, RecursionError):
        return 0
    return value if type(value) is int and 0 < value <= MAX_TOKENS else 0


def kind_of(value: Any) -> str:
    return _TYPES.get(type(value), "a number")


def wrong(value: Any, where: str, right: str) -> Refused:
    """400: `where` is of the wrong type."""
    if value is None:
        return bad_request(f"{where} is missing; it should be {right}", param=where)
    return bad_request(f"{where} should be {right}, not {kind_of(value)}", param=where)


def as_object(value: Any, where: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise wrong(value, where, "an object")
    return value


def as_list(value: Any, where: str) -> list[Any]:
    if type(value) is not list:
        raise wrong(value, where, "a list")
    return value


def as_text(value: Any, where: str) -> str:
    if type(value) is not str:
        raise wrong(value, where, "a text")
    return value


def as_word(value: Any, where: str) -> str:
    """A text that is not empty."""
    if type(value) is not str or not value:
        raise bad_request(f"{where} should be a text that is not empty", param=where)
    return value


def take_text(fields: dict[str, Any], key: str) -> str:
    """Empty where absent or null."""
    value = fields.pop(key, None)
    return "" if value is None else as_text(value, key)


def take_flag(fields: dict[str, Any], key: str, default: bool = False) -> bool:
    value = fields.pop(key, None)
    if value is None:
        return default
    if type(value) is not bool:
        raise wrong(value, key, "true or false")
    return value


def take_number(fields: dict[str, Any], key: str, high: float) -> float | None:
    """From 0 to `high`."""
    value = fields.pop(key, None)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= high or math.isnan(value):
        raise bad_request(f"{key} should be a number from 0 to {high:g}", param=key)
    return float(value)


def take_tokens(fields: dict[str, Any], key: str) -> int | None:
    """At least 1."""
    value = fields.pop(key, None)
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)  # to JSON 5.0 and 5 are one number
    if type(value) is not int or not 1 <= value <= MAX_TOKENS:
        raise bad_request(f"{key} should be a whole number of tokens, at least 1", param=key)
    return value
