"""A stage trained again, from what its checkpoint folder keeps: the recipe, the rows it was trained on, its parent.

The same weights to the last bit are expected on the same kind of machine with the same libraries; where they are not,
everything that is known to differ is named.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from alignstack.core.errors import DataError
from alignstack.loop.train import tools
from alignstack.training import lineage
from alignstack.training.lineage import Stage
from alignstack.training.stage import METRICS, RECIPE, ROWS

AGAIN = "repeat.yaml"
"""The recipe of the repetition, in its work folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """A stage, and the same stage once more."""

    first: Stage
    again: Stage
    out: Path
    differs: tuple[str, ...]
    """What is not as it was, weights aside; it may explain other weights."""

    @property
    def same(self) -> bool:
        """The weights are equal to the last bit."""
        return self.first.weights == self.again.weights


def repeat(checkpoint: Path, out: Path) -> Repeated:
    """Train the stage of `checkpoint` again into `out`. Raises DataError when the folder does not keep what that takes,
    or `out` is there already; and whatever the method raises."""
    first = lineage.read(checkpoint)
    recipe = _recipe(checkpoint, first)
    if out.exists():
        raise DataError(f"{str(out)!r} is there already; give another folder")
    changed = list(_changed(checkpoint, first, recipe))
    work = out.with_name(out.name + ".work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for kept in [checkpoint / ROWS, *sorted(checkpoint.glob("*.jsonl"))]:
        if kept.is_file() and kept.name != METRICS:
            shutil.copyfile(kept, work / kept.name)
    made = _written(checkpoint, first, recipe, out, work)
    method: Any = import_module(f"alignstack.training.{first.method}")
    method.run(made, tools(resume=True))
    again = lineage.read(out)
    return Repeated(first=first, again=again, out=out, differs=(*changed, *differences(first, again)))


def differences(first: Stage, again: Stage) -> Iterator[str]:
    """What two records of one stage say of how they were made, where it is not the same."""
    names = sorted({*first.libraries, *again.libraries})
    for name in names:
        before, now = first.libraries.get(name, "none"), again.libraries.get(name, "none")
        if before != now:
            yield f"{name} was {before}, is {now}"
    for what in ("policy", "seed", "steps", "machine", "stopped"):
        before, now = getattr(first, what), getattr(again, what)
        if before != now:
            yield f"{what} was {_short(before)}, is {_short(now)}"
    for name, sha in first.uses.items():
        if again.uses.get(name) != sha:
            yield f"{name} had the weights {sha[:12]}, has {again.uses.get(name, 'none')[:12]}"


def _changed(checkpoint: Path, stage: Stage, recipe: Path) -> Iterator[str]:
    """What is in the folder is no longer what was trained with."""
    if lineage.sha256(recipe) != stage.recipe:
        yield f"{recipe.name} has changed since training"
    if stage.rows is not None and lineage.sha256(checkpoint / ROWS) != stage.rows:
        yield f"{ROWS} has changed since training: other rows, or another order"
    parent = _parent(checkpoint, stage)
    if parent is not None and lineage.sha256(parent / lineage.WEIGHTS) != stage.parent:
        yield f"the parent {str(parent)!r} was trained again after this stage was made from it"


def _recipe(checkpoint: Path, stage: Stage) -> Path:
    """Beside the weights, else where it lay if it is still the same. Raises DataError."""
    if stage.method == "unpacked":
        raise DataError(f"{str(checkpoint)!r} was unpacked from an export: it was not trained here")
    lain = (checkpoint / stage.recipe_path).resolve() if stage.recipe_path else checkpoint / RECIPE
    same = lain.is_file() and lineage.sha256(lain) == stage.recipe
    for found in (checkpoint / RECIPE, *([lain] if same else [])):
        if found.is_file():
            return found
    raise DataError(f"{str(checkpoint)!r} keeps no {RECIPE}, and its recipe is not where it was: it cannot be repeated")


def _parent(checkpoint: Path, stage: Stage) -> Path | None:
    """Raises DataError when it is gone."""
    if stage.parent_path is None:
        return None
    parent = (checkpoint / stage.parent_path).resolve()
    if not (parent / lineage.WEIGHTS).is_file():
        raise DataError(f"the parent of {stage.stage!r}, {str(parent)!r}, is gone: it cannot be repeated")
    return parent


def _written(checkpoint: Path, stage: Stage, recipe: Path, out: Path, work: Path) -> Path:
    """The recipe with another `out`, and its paths made absolute: they start at the folder where it lay."""
    lain = (checkpoint / stage.recipe_path).resolve().parent if stage.recipe_path else recipe.resolve().parent
    tree = _absolute(yaml.safe_load(recipe.read_text(encoding="utf-8")), lain)
    tree |= {"name": stage.stage, "out": str(out.resolve())}
    parent = _parent(checkpoint, stage)
    if parent is not None:
        tree["parent"] = str(parent)
    file = work / AGAIN
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return file


def _absolute(value: Any, base: Path) -> Any:
    """Texts that name a file, or a checkpoint folder, under `base`."""
    if isinstance(value, Mapping):
        return {key: _absolute(inner, base) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_absolute(inner, base) for inner in value]
    if not isinstance(value, str) or not value or len(value) > 1000:
        return value
    place = base / value
    return str(place.resolve()) if place.is_file() or (place / lineage.FILE).is_file() else value


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
