"""Where a checkpoint comes from: one `lineage.json` beside each set of weights, chained by hash from stage to stage."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from alignstack.core.errors import DataError

FILE = "lineage.json"
WEIGHTS = "model.safetensors"
LIBRARIES = ("torch", "transformers", "trl", "tokenizers", "datasets", "accelerate", "peft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One training stage, as the file on disk says it."""

    stage: str
    """The name in the recipe, for example `helpful`."""
    method: str
    """`pretrain`, `sft`, …"""
    weights: str
    """SHA-256 of the weights this stage produced."""
    parent: str | None
    """SHA-256 of the weights it started from; None for a model trained from scratch."""
    parent_path: str | None
    """Where the parent lies, relative to this checkpoint."""
    recipe: str
    """SHA-256 of the recipe file."""
    data: dict[str, str]
    """File name → SHA-256."""
    seed: int
    tokens: int
    """Tokens seen in training."""
    seconds: float
    libraries: dict[str, str] = field(default_factory=dict)
    policy: str | None = None
    """Fingerprint of the policy whose words and hazards the data carry."""
    rows: str | None = None
    """SHA-256 of the rows as they were trained on (`rows.jsonl.gz`), answers made on the way included."""
    uses: dict[str, str] = field(default_factory=dict)
    """Further checkpoints that took part (reward models, judges, critics): name → SHA-256 of the weights."""
    ancestors: tuple[str, ...] = ()
    """Of a checkpoint unpacked from an export: weights of the stages before it as the export says, oldest first, its
    own included."""
    steps: int = 0
    stopped: str | None = None
    """Why training ended before its last step, if it did."""
    peak_mb: float = 0.0
    """Largest resident memory of the process, MB; on a GPU the largest allocation on the device."""
    measured: dict[str, float] = field(default_factory=dict)
    """Numbers of the last evaluation in the loop (`asr/on`, `over_refusal/off` …), by name."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(
    checkpoint: Path, *, stage: str, method: str, parent: Path | None, recipe: Path, data: Iterable[Path], seed: int,
    tokens: int, seconds: float, place: Path | None = None, **more: Any,
) -> Stage:  # fmt: skip
    """Describe a finished checkpoint; its weights must be on disk already. `place` is where the folder will be moved
    to; `more` are further fields of Stage."""
    record = Stage(
        stage=stage,
        method=method,
        weights=sha256(checkpoint / WEIGHTS),
        parent=sha256(parent / WEIGHTS) if parent else None,
        parent_path=os.path.relpath(parent, place or checkpoint) if parent else None,
        recipe=sha256(recipe),
        data={path.name: sha256(path) for path in data},
        seed=seed,
        tokens=tokens,
        seconds=round(seconds, 1),
        libraries=_libraries(),
        **more,
    )
    (checkpoint / FILE).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    return record


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def read(checkpoint: Path) -> Stage:
    """One stage. Raises DataError when the file is missing or broken."""
    path = checkpoint / FILE
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return Stage(**tree | {"ancestors": tuple(tree.get("ancestors", ()))})
    except FileNotFoundError:
        raise DataError(f"{str(checkpoint)!r} has no {FILE}: not a checkpoint of `alignstack train`") from None
    except (ValueError, TypeError, AttributeError):
        raise DataError(
            f"{str(path)!r} is damaged: not what `alignstack train` writes; train that stage again"
        ) from None


def chain(checkpoint: Path) -> list[Stage]:
    """All stages, oldest first. Raises DataError when a parent's weights are not the ones the child started from."""
    stages = [read(checkpoint)]
    while (parent := stages[-1].parent_path) is not None:
        checkpoint = (checkpoint / parent).resolve()
        found = read(checkpoint)
        if found.weights != stages[-1].parent:
            raise DataError(f"{str(checkpoint)!r} was retrained after {stages[-1].stage!r} was made from it")
        stages.append(found)
    return stages[::-1]
