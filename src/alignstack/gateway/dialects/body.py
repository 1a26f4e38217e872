"""JSON of OpenAI's dialects: bodies in, with errors that name the key; bytes out."""

import json
import re
from typing import Any, TypeVar

import msgspec

from alignstack.gateway.call import Refused, bad_request

T = TypeVar("T")

SHOWN = 200
"""Characters of an error that are sent: values of the request can be in it."""

_parse = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def parsed(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises Refused (400)."""
    try:
        data = _parse(body)
    except RecursionError:
        raise bad_request("The body is nested too deeply.") from None
    except ValueError as error:  # broken JSON, bytes that are not UTF-8, half a surrogate pair, numbers out of range
        raise bad_request(f"The body is not valid JSON: {str(error)[:SHOWN]}") from None
    if not isinstance(data, dict):
        raise bad_request("The body should be a JSON object.")
    return data


def fitting(data: dict[str, Any], shape: type[T]) -> T:
    """`data` as a Struct. Raises Refused (400) that names the first key that is wrong."""
    try:
        return msgspec.convert(data, shape)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None


def _wrong(text: str) -> Refused:
    """From msgspec's words, for example ``Expected `str`, got `int` - at `$.messages[0].role` ``."""
    what, _, path = text.partition(" - at `$")
    where = path.rstrip("`").lstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", what):
        param = ".".join(filter(None, (where, missing[1])))
        return bad_request(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    kind = "invalid_type" if " got `" in what else "invalid_value"
    return bad_request(f"Invalid {kind[8:]} for '{where}': {what[:SHOWN]}.", param=where, code=kind)


def encode(value: Any) -> bytes:
    """JSON; half surrogate pairs, which models that read bytes can make, become question marks."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
