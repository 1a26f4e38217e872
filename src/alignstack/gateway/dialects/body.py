"""Requests as typed Structs, with errors that name the key; answers as JSON."""

import json
import re
from typing import Any, TypeVar

import msgspec

from alignstack.gateway.call import Refused, bad_request

T = TypeVar("T")

SHOWN = 200
"""Characters of an error that are sent: values of the request can be in it."""

_encode = msgspec.json.Encoder().encode


def fitting(data: dict[str, Any], shape: type[T]) -> T:
    """`data` as a Struct. Raises Refused (400) that names the first key that is wrong."""
    try:
        return msgspec.convert(data, shape)
    except msgspec.ValidationError:
        plain = {key: _counted(value) for key, value in data.items()}
    try:
        return msgspec.convert(plain, shape)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None


def _counted(value: Any) -> Any:
    """To JSON 5.0 and 5 are one number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _wrong(text: str) -> Refused:
    """From msgspec's words, for example ``Expected `str`, got `int` - at `$.messages[0].role` ``."""
    what, _, path = text.partition(" - at `$")
    where = path.rstrip("`").lstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", what):
        param = ".".join(filter(None, (where, missing[1])))
        return bad_request(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    wrong = "type" if " got `" in what else "value"
    return bad_request(f"Invalid {wrong} for '{where}': {what[:SHOWN]}.", param=where, code=f"invalid_{wrong}")


def encode(value: Any) -> bytes:
    """JSON; half surrogate pairs, which models that read bytes can make, become question marks."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
