"""One audit on disk: a folder with `manifest.json` (what made it), `items.json` (ids, in order) and `results.jsonl`
(one finished item a line, appended and flushed to disk before the next is counted as done). People's labels are in
`labels.jsonl`, lines of `{"id", "human": "harmful" | "safe"}`, which they write themselves.

A process killed in mid-write leaves a torn last line: readers pass over it, the next writer cuts it off.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Literal, get_args

from alignstack.core.errors import DataError, NotFound
from alignstack.core.grid import Manifest, Record
from alignstack.store.codec import MANIFEST, RECORD, decode, encode

MANIFEST_FILE = "manifest.json"
ITEMS_FILE = "items.json"
RESULTS_FILE = "results.jsonl"
LABELS_FILE = "labels.jsonl"
Human = Literal["harmful", "safe"]


class Run:
    """Raises DataError when `folder` holds no run, or a damaged one."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = decode(MANIFEST, _read(self.folder, MANIFEST_FILE), f"{folder}/{MANIFEST_FILE}")
        self._order = {name: place for place, name in enumerate(_ids(self.folder))}
        self._writer: FileIO | None = None

    @classmethod
    def create(cls, folder: Path, manifest: Manifest, items: Sequence[str] = ()) -> "Run":
        """A new run; `items` are the ids in the order in which `records()` gives them (without: as they were written).
        Raises DataError when `folder` holds a run already."""
        if cls.exists(folder):
            raise DataError(f"{str(folder)!r} already holds a run; resume it, or write to another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / ITEMS_FILE, json.dumps(list(items)))
            _write(folder / MANIFEST_FILE, encode(MANIFEST, manifest))
        except OSError as error:
            raise DataError(f"cannot write a run to {str(folder)!r}: {error.strerror}") from None
        return cls(folder)

    @staticmethod
    def exists(folder: Path) -> bool:
        return (Path(folder) / MANIFEST_FILE).exists()

    def records(self) -> list[Record]:
        """Finished items in item order, whatever the order in which they finished, with the labels people gave them."""
        found: dict[str, Record] = {}
        for number, line in enumerate(self._lines(), start=1):
            record = decode(RECORD, line, f"{self.folder}/{RESULTS_FILE}:{number}")
            found[record.id] = record  # an item asked again after the model was down replaces itself
        for name, human in self.labels().items():
            if name in found:
                found[name] = replace(found[name], human=human)
        return sorted(found.values(), key=lambda record: self._order.get(record.id, len(self._order)))

    def labels(self) -> dict[str, Human]:
        """People's labels by item id; of several for one item the last. Raises DataError with every bad line."""
        try:
            lines = (self.folder / LABELS_FILE).read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        where = f"{self.folder}/{LABELS_FILE}"
        read = [(number, _label(line)) for number, line in enumerate(lines, start=1) if line.strip()]
        wrong = [
            f'{where}:{number}: should be {{"id": "…", "human": "harmful" or "safe"}}'
            for number, one in read
            if not one
        ]
        if wrong:
            raise DataError("\n".join(wrong))
        return dict(one for _, one in read if one)

    def find(self, key: str) -> Record:
        """By item id or trace id. Raises NotFound with the nearest."""
        records = self.records()
        for record in records:
            if key in (record.id, record.trace):
                return record
        raise NotFound("item or trace", key, [name for record in records for name in (record.id, record.trace)])

    def done(self) -> set[str]:
        """Ids of the items that need not be asked again: the model answered in every cell."""
        return {record.id for record in self.records() if answered(record)}

    def append(self, record: Record) -> None:
        """On disk when this returns. Raises DataError when another process is writing to the run, OSError when the disk
        takes no more."""
        writer = self._writer or self._open()
        try:
            _write_all(writer, encode(RECORD, record).encode() + b"\n")
            os.fsync(writer.fileno())
        except OSError:
            self.close()  # half a line may be there; opening again cuts it off
            raise

    def close(self) -> None:
        """Give up the right to write; the next `append` asks for it again."""
        if self._writer:
            self._writer.close()
            self._writer = None

    def _open(self) -> FileIO:
        file = (self.folder / RESULTS_FILE).open("ab+", buffering=0)
        if not _locked(file):
            file.close()
            raise DataError(f"another audit is writing to {str(self.folder)!r}; let it finish, or use another folder")
        file.truncate(sum(len(line) + 1 for line in self._lines()))
        self._writer = file
        return file

    def _lines(self) -> list[bytes]:
        """Whole lines. The last one is whole when it ends in a newline and is JSON (a disk may write pages in any
        order)."""
        with contextlib.suppress(FileNotFoundError):
            *lines, _torn = (self.folder / RESULTS_FILE).read_bytes().split(b"\n")
            return lines if not lines or _is_json(lines[-1]) else lines[:-1]
        return []


def answered(record: Record) -> bool:
    """Did the model answer in every cell?"""
    return all(draft.finish != "unavailable" for draft in record.grid.drafts)


def _ids(folder: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((folder / ITEMS_FILE).read_bytes())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        raise DataError(f"{folder}/{ITEMS_FILE}: is not a list of item ids; audit again into another folder") from None


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError:
        what = "is not a folder" if not folder.is_dir() else f"has no {name}"
        raise DataError(f"{str(folder)!r} is no run: it {what}; `alignstack audit --out {folder}` makes one") from None


def _label(line: bytes) -> tuple[str, Human] | None:
    try:
        value = json.loads(line)
        name, human = value["id"], value["human"]
    except (ValueError, TypeError, KeyError):
        return None
    return (name, human) if isinstance(name, str) and human in get_args(Human) else None


def _write(path: Path, text: str) -> None:
    """All or nothing: a reader never sees half a file."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _write_all(file: FileIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _locked(file: FileIO) -> bool:
    """Take the file for this process until it ends, however it ends; where locks are unknown, trust the user."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
