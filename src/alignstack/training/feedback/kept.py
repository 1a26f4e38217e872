"""What models have said is on disk before the next thing is asked, so that a killed run asks nothing twice."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alignstack.core.errors import DataError

Row = Mapping[str, Any]


class Kept:
    """Lines of JSON, one for each `id`. A row with `failed` is kept to be read, and asked for again on the next run."""

    def __init__(self, path: Path, by: str) -> None:
        """`by`: the version of who speaks; rows of another one are dropped. So is a last line that a kill cut off."""
        self.path, self._by = path, by[:12]
        self.rows = {row["id"]: row for row in _read(path) if row.get("by") == self._by and "failed" not in row}
        self._write(self.rows)
        self._file = path.open("a", encoding="utf-8")

    def __contains__(self, name: str) -> bool:
        return name in self.rows and "failed" not in self.rows[name]

    def add(self, row: Row) -> None:
        """On disk when this returns."""
        self.rows[row["id"]] = dict(row) | {"by": self._by}
        self._file.write(_line(self.rows[row["id"]]))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, order: Iterable[str]) -> None:
        """Puts the rows in this order, which does not depend on who answered first."""
        self._file.close()
        self._write([name for name in order if name in self.rows])

    def _write(self, order: Iterable[str]) -> None:
        part = self.path.with_name(self.path.name + ".part")
        part.write_text("".join(_line(self.rows[name]) for name in order), encoding="utf-8")
        os.replace(part, self.path)


def unfinished(out: Path, name: str) -> None:
    """Raises DataError when the work folder of `out` holds what models have said in a run that was cut off."""
    work = out.with_name(out.name + ".work")
    if (work / name).is_file():
        raise DataError(f"{str(work)!r} holds the {name} of a run that was cut off; `--resume` goes on with it, or "
                        "delete it")  # fmt: skip


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in whole]
