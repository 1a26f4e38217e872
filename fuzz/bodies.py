"""JSON that is nearly right: requests of the corpus with some of their values exchanged. Bytes alone seldom get past
the parser."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
ODD: list[Any] = [
    None, True, 0, -1, 2, 5.0, 1.5, 10**20, "", "x", "\n", "data:,", "http://127.1/", [], {}, [[]], [{}], [None],
    {"": 0},
]  # fmt: skip


class Script:
    """Numbers from bytes, 0 when there are no more."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def draw(self, below: int) -> int:
        number = next(self._bytes, 0)
        return (number if below <= 256 else number * 256 + next(self._bytes, 0)) % below


def body(name: str, script: Script) -> bytes:
    """A request of the corpus of that name with one to six changes."""
    seeds, keys, values = _known(name)
    value = json.loads(seeds[script.draw(len(seeds))])
    for _ in range(1 + script.draw(6)):
        value = _changed(value, script, keys, values)
    return json.dumps(value).encode()


@cache
def _known(name: str) -> tuple[list[str], list[str], list[Any]]:
    """Requests, keys and values."""
    seeds = [text for file in sorted((CORPUS / name).glob("*.json")) if (text := _json(file))]
    found = [pair for text in seeds for pair in _pairs(json.loads(text))]
    keys = sorted({key for key, _ in found})
    return seeds, keys, [*ODD, *(value for _, value in found)]


def _json(file: Path) -> str:
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        json.loads(text)
    except RecursionError:
        return ""
    return text if len(text) < 1000 else ""


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    for key, child in _children(value):
        if isinstance(key, str):
            yield key, child
        yield from _pairs(child)


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []


def _changed(value: Any, script: Script, keys: list[str], values: list[Any]) -> Any:
    """With one change, here or further in."""
    children = _children(value)
    if children and script.draw(4):
        key, child = children[script.draw(len(children))]
        value[key] = _changed(child, script, keys, values)
        return value
    new = json.loads(json.dumps(values[script.draw(len(values))]))
    match script.draw(4):
        case 0 if isinstance(value, dict):
            value[keys[script.draw(len(keys))]] = new
        case 1 if isinstance(value, dict) and children:
            del value[children[script.draw(len(children))][0]]
        case 2 if isinstance(value, list):
            value.append(new)
        case _:
            return new
    return value
