"""Constitutions that others have published → principles of a policy.

Reads the two shapes of the files beside "Constitutional AI" (Bai et al. 2022): an object of name → `{"prompt":
[critique request], "edit_request": revision request}`, and a list of instructions to choose between two answers. Tools
that took the first over call its keys `critique` or `critic` and `revision`, with or without `_request`; those are read
too. The words stay their authors': mind the licence of the file, or that it has none.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from alignstack.core.errors import ConfigError, Problem
from alignstack.policy.model import Principle
from alignstack.policy.strict import join, problems

CRITIQUE = ("prompt", "critique", "critique_request", "critic")
REVISION = ("edit_request", "revision", "revision_request")
LABELS = re.compile(r"^\s*(?:critique|revision)\s*request\s*:\s*|\s*\b(?:critique|revision|options)\s*:\s*$", re.I)
"""What the published texts carry to fit a dialogue of their own: `CritiqueRequest:` before, `Critique:` behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    name: str
    """What the principle is called."""
    at: str
    """Where it stands in the file."""
    value: Any


def read(path: Path) -> tuple[Principle, ...]:
    """The principles of a published file, in its order. Raises ConfigError that names every entry that is none."""
    found: list[Problem] = []
    principles: dict[str, Principle] = {}
    for entry in _entries(_json(path), str(path)):
        for principle in _principles(entry, str(path), found):
            if principle.id in principles:
                what = f"its id {principle.id!r} is taken by an entry before it; rename one of them"
                found.append(Problem(where=f"{path}: {entry.at}", what=what))
            principles.setdefault(principle.id, principle)
    if not principles and not found:
        found.append(Problem(where=str(path), what="holds no principles"))
    if found:
        raise ConfigError(found)
    return tuple(principles.values())


def as_yaml(principles: Sequence[Principle], name: str) -> str:
    """A policy file with these principles in place of the built-in ones, and all else built-in."""
    rows = [principle.model_dump(exclude_none=True) for principle in principles]
    literal = [{key: text.replace("${", "$${") for key, text in row.items()} for row in rows]
    tree = {"extends": "built-in", "name": name, "principles": literal}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        what = "no such file"
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        what = "not UTF-8 text"
    except json.JSONDecodeError as error:
        what = f"not valid JSON: {error.msg} (line {error.lineno})"
    except RecursionError:
        what = "nested too deeply"
    raise ConfigError([Problem(where=str(path), what=what)]) from None


def _entries(data: Any, file: str) -> Iterator[_Entry]:
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield _Entry(name=_id(name), at=name, value=value)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield _Entry(name=f"principle_{index + 1}", at=f"[{index}]", value=value)
    else:
        what = "should be an object of critique and revision requests by name, or a list of instructions"
        raise ConfigError([Problem(where=file, what=what)])


def _id(name: str) -> str:
    made = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return made if re.match(r"[a-z]", made) else f"principle_{made}".rstrip("_")


def _principles(entry: _Entry, file: str, found: list[Problem]) -> Iterator[Principle]:
    """Several wordings of one critique request make as many principles."""
    rows: list[dict[str, Any]] = []
    if isinstance(entry.value, str):
        rows = [{"text": _clean(entry.value)}]
    elif isinstance(entry.value, Mapping):
        rows = _pair(entry, file, found)
    else:
        what = "should be an instruction, or an object with a critique request and a revision request"
        found.append(Problem(where=f"{file}: {entry.at}", what=what))
    for number, row in enumerate(rows, start=1):
        name = entry.name if number == 1 else f"{entry.name}_{number}"
        try:
            yield Principle.model_validate({"id": name, **row})
        except ValidationError as error:
            found += problems(error, file, Principle, entry.at)


def _pair(entry: _Entry, file: str, found: list[Problem]) -> list[dict[str, Any]]:
    critiques = _texts(entry, CRITIQUE, file, found)
    revisions = _texts(entry, REVISION, file, found)
    if len(revisions) > 1:
        what = "should be one revision request, not several"
        found.append(Problem(where=f"{file}: {join(entry.at, _key(entry.value, REVISION))}", what=what))
        return []
    return [{"text": text, "critique": text, "revision": revisions[0]} for text in critiques if revisions]


def _texts(entry: _Entry, keys: Sequence[str], file: str, found: list[Problem]) -> list[str]:
    """The texts under the first of `keys` that is there; problems are noted."""
    key = _key(entry.value, keys)
    value = entry.value.get(key)
    texts = [value] if isinstance(value, str) else value
    where = f"{file}: {join(entry.at, key)}"
    if value is None:
        found.append(Problem(where=where, what=f"missing; an entry has one of {', '.join(keys)}"))
    elif not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        found.append(Problem(where=where, what="should be text, or a list of texts"))
    elif not all(_clean(text) for text in texts):
        found.append(Problem(where=where, what="should not be empty"))
    else:
        return [_clean(text) for text in texts]
    return []


def _key(value: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((key for key in keys if key in value), keys[0])


def _clean(text: str) -> str:
    return LABELS.sub("", text).strip()
