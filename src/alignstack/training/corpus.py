"""Training data on disk: JSONL, plain or compressed (`.gz`, `.zst`), rows of `text` or of `messages`."""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from alignstack.core.errors import DataError

OPENERS = {".gz": gzip.open, ".zst": zstandard.open}


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """One dict a line. Raises DataError that names the line."""
    if not path.is_file():
        raise DataError(f"data file {str(path)!r} does not exist")
    opener: Any = OPENERS.get(path.suffix, open)
    with opener(path, "rb") as raw:
        for number, line in enumerate(io.TextIOWrapper(raw, "utf-8"), 1):
            try:
                row = json.loads(line)
            except (ValueError, UnicodeDecodeError) as error:
                raise DataError(f"{path.name} line {number}: not JSON ({error})") from None
            if not isinstance(row, dict) or not ("text" in row or "messages" in row):
                raise DataError(f"{path.name} line {number}: needs `text` or `messages`")
            yield row
