"""Where a checkpoint comes from: one `lineage.json` beside each set of weights, chained by hash from stage to stage."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from alignstack.core.errors import DataError

FILE = "lineage.json"
WEIGHTS = "model.safetensors"
GONE = "gone"
"""In place of the hash of a data file that is no longer there: a repeated run has its rows from the first one."""
LIBRARIES = ("alignstack", "torch", "transformers", "trl", "tokenizers", "datasets", "accelerate", "peft")


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
    recipe_path: str | None = None
    """Where the recipe lay, relative to this checkpoint: its own paths start there."""
    machine: str = ""
    """What added up the numbers: another kind of processor, or another number of threads, rounds differently."""


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
        data={path.name: sha256(path) if path.is_file() else GONE for path in data},
        seed=seed,
        tokens=tokens,
        seconds=round(seconds, 1),
        libraries=libraries(),
        recipe_path=os.path.relpath(recipe.resolve(), (place or checkpoint).resolve()),
        machine=machine(),
        **more,
    )
    (checkpoint / FILE).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    return record


def libraries() -> dict[str, str]:
    """Versions of what is installed of LIBRARIES."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine() -> str:
    """For example `Linux x86_64 AVX512, threads: 1`, with the GPU's name where there is one."""
    parts = f"{platform.system()} {platform.machine()}"
    torch: Any = sys.modules.get("torch")  # not imported for this: who trains has it
    if torch is None:
        return parts
    parts += f" {torch.backends.cpu.get_cpu_capability()}, threads: {torch.get_num_threads()}"
    return f"{parts}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else parts


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
    """All stages, oldest first. Raises DataError when a parent is missing, or its weights are not the ones the child
    started from."""
    found = folders(checkpoint)
    _parent(*found[0])  # says what is wrong with it
    return [stage for stage, _ in found]


def folders(checkpoint: Path) -> list[tuple[Stage, Path]]:
    """Stages with their folders, oldest first, as far back as the weights that a child started from are still there.
    Raises DataError when `checkpoint` itself is none."""
    found = [(read(checkpoint), checkpoint)]
    with suppress(DataError):
        while (above := _parent(*found[-1])) is not None:
            found.append(above)
    return found[::-1]


def weights(checkpoint: Path) -> list[str]:
    """SHA-256 of the weights of every stage, oldest first, those before an export that was unpacked included. The
    first of what is known, where a parent is missing, is that parent's."""
    found = [stage for stage, _ in folders(checkpoint)]
    before = found[0].ancestors[:-1] or ((found[0].parent,) if found[0].parent else ())
    own = found[0].ancestors[-1:] or (found[0].weights,)
    return [*before, *own, *(stage.weights for stage in found[1:])]


def _parent(stage: Stage, checkpoint: Path) -> tuple[Stage, Path] | None:
    if stage.parent_path is None:
        return None
    place = (checkpoint / stage.parent_path).resolve()
    found = read(place)
    if found.weights != stage.parent:
        raise DataError(f"{str(place)!r} was retrained after {stage.stage!r} was made from it")
    return found, place
