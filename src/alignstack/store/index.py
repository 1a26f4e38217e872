"""Where audits were written, so that the trace id of an audited item is found from any folder.

Such an id is `RUN-ITEM`: the first 12 digits of the run's hash and of the item's.
"""

import time
from pathlib import Path

from alignstack.core.errors import NotFound
from alignstack.core.messages import digest
from alignstack.store.database import Database
from alignstack.store.home import database

PART = 12
"""Hex digits of each half of a trace id: a million runs share a half with a chance below 1 in 500."""


def trace_id(run: str, item: str) -> str:
    """The same for the same item of the same run, wherever and however often it is run."""
    return f"{run[:PART]}-{digest(run, item)[:PART]}"


class RunIndex:
    """Run folders by the run's name. `path` None: this machine's own store."""

    def __init__(self, path: Path | None = None) -> None:
        self._database = Database(path or database())

    def add(self, run: str, folder: Path) -> None:
        row = (str(folder.absolute()), run, time.time())
        self._database.write("INSERT OR REPLACE INTO runs (folder, run, added) VALUES (?, ?, ?)", *row)

    def folder(self, trace: str) -> Path:
        """The newest folder, of those still there, of the run that `trace` belongs to. Raises NotFound."""
        run, dash, _ = trace.partition("-")
        for folder in self.folders(run) if dash and len(run) == PART else []:
            return folder
        raise NotFound("trace", trace)

    def folders(self, run: str = "") -> list[Path]:
        """Folders that are still there, the newest first, of all runs whose name begins with `run`."""
        rows = self._database.rows(
            "SELECT folder FROM runs WHERE substr(run, 1, ?) = ? ORDER BY added DESC, rowid DESC", len(run), run
        )
        return [Path(folder) for (folder,) in rows if (Path(folder) / "manifest.json").is_file()]

    def close(self) -> None:
        self._database.close()
