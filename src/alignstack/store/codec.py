"""The one place where traces, manifests and records become JSON and come back, equal."""

import json
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from alignstack.core.errors import DataError
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
