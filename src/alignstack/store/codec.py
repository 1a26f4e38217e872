"""The one place where traces, manifests and records become JSON and come back, equal."""

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from pydantic import TypeAdapter, ValidationError

from alignstack.core.errors import DataError
from alignstack.core.events import LayerEvent
from alignstack.core.grid import Manifest, Record
from alignstack.core.trace import Trace

TRACE: TypeAdapter[Trace] = TypeAdapter(Trace)
MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)
RECORD: TypeAdapter[Record] = TypeAdapter(Record)

T = TypeVar("T")


def encode(adapter: TypeAdapter[T], value: T) -> str:
    """One line of ASCII JSON, which holds lone surrogates too (JSON requests can carry them, UTF-8 cannot). Sets are
    sorted, so that equal values are equal bytes."""
    return json.dumps(adapter.dump_python(value), default=sorted, separators=(",", ":"))


def encode_trace(trace: Trace) -> str:
    """As `encode`, many times as fast, with characters that are not ASCII as they are."""
    if not _finite(trace):
        return encode(TRACE, trace)  # the fast encoder writes null
    try:
        return _FAST.encode(trace).decode()
    except (UnicodeEncodeError, TypeError):  # half a surrogate pair; a layer's own kind of value
        return encode(TRACE, trace)


def _finite(trace: Trace) -> bool:
    total = 0.0
    for event in trace.events:
        if isinstance(event, LayerEvent):
            verdict = event.verdict
            total += (verdict.score or 0.0) + (verdict.threshold or 0.0)
            if verdict.categories:
                total += sum(verdict.categories.values())
    return math.isfinite(total)


def _plain(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


_FAST = msgspec.json.Encoder(enc_hook=_plain)


def decode(adapter: TypeAdapter[T], line: bytes | str, where: str) -> T:
    """Raises DataError that names `where` and the first thing wrong."""
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        try:
            return adapter.validate_python(json.loads(line))
        except (ValueError, RecursionError):
            raise DataError(f"{where}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    return f"{path}: {problem['msg']}" if path else problem["msg"]
