"""Training data on disk: JSON Lines or one JSON array, plain or compressed (`.gz`, `.zst`)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignstack.core.errors import DataError, nearest
from alignstack.store.packed import BROKEN, unpacked


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """One dict a line, each with `text` or `messages`. Raises DataError that names the line."""
    for number, row in _read(path):
        if isinstance(row, Bad):
            raise DataError(f"{path.name} line {number}: {row}")
        if not ("text" in row or "messages" in row):
            raise DataError(f"{path.name} line {number}: needs `text` or `messages`")
        yield row


class Bad(str):
    """Why a line is no row."""


def lines(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of every row; what is wrong with the others goes to `problems` on the way. Raises DataError
    when the file cannot be read at all."""
    for number, row in _read(path):
        if isinstance(row, Bad):
            problems.append(f"{path}:{number}: {row}")
        else:
            yield number, row


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    raw = _unpacked(path).removeprefix(b"\xef\xbb\xbf")
    if raw.lstrip()[:1] == b"[":
        yield from _array(raw)
        return
    for number, line in enumerate(raw.split(b"\n"), 1):
        if line.strip():
            yield number, _object(line)


def _unpacked(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        others = [other.name for other in path.parent.glob("*.json*")] if path.parent.is_dir() else []
        near = nearest(path.name, others) if isinstance(error, FileNotFoundError) else ""
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise DataError(f"data file {str(path)!r} {what}{near}") from None
    try:
        return unpacked(raw, path.suffix)
    except BROKEN as error:
        raise DataError(f"{str(path)!r} is not a whole {path.suffix} file ({error})") from None


def _object(line: bytes) -> dict[str, Any] | Bad:
    try:
        return _row(json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return Bad(f"is not UTF-8 (byte {error.start + 1}); save the file as UTF-8")
    except json.JSONDecodeError as error:
        return Bad(f"is not JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError):
        return Bad("is not JSON that can be read: too deep, or a number too long")


def _row(value: object) -> dict[str, Any] | Bad:
    return value if isinstance(value, dict) else Bad('is not a JSON object such as {"prompt": "…", "completion": "…"}')


def _array(raw: bytes) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    """The entries of one array, each with the line on which it starts."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        yield raw.count(b"\n", 0, error.start) + 1, Bad("is not UTF-8; save the file as UTF-8")
        return
    decoder, at, line, seen = json.JSONDecoder(), text.index("[") + 1, 1, 0
    while True:
        at = _after(text, at, " \t\r\n,")
        line, seen = line + text.count("\n", seen, at), at
        if text[at : at + 1] == "]":
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else "too deep, or a number too long"
            yield line, Bad(f"is not JSON: {what}; the rest of the array was not read")
            return
        yield line, _row(value)


def _after(text: str, at: int, passed: str) -> int:
    while at < len(text) and text[at] in passed:
        at += 1
    return at
