"""Strict YAML: every problem at once, with file, line or YAML path, and the nearest valid name.

Values are never quoted in messages, since `${NAME}` may have put a secret into any of them.
"""

import os
import re
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from alignstack.core.errors import ConfigError, Problem, nearest

MAX_DEPTH = 64
MAX_NODES = 1_000_000
"""Limits on what a configuration file may expand to; chosen by hand, far above any real file."""

_VARIABLE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")


def load_yaml(path: Path) -> Any:
    """The data of a YAML file. Raises ConfigError when it cannot be read, is not UTF-8, is not YAML, repeats keys or
    is empty."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError([Problem(where=str(path), what=_os_error(error))]) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"not UTF-8 text (byte {error.start}); save the file as UTF-8"
        raise ConfigError([Problem(where=f"{path}:{line}", what=what)]) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, file: str) -> Any:
    """The data of a YAML text; `file` is what messages call it. Errors as in `load_yaml`."""
    duplicates: list[Problem] = []
    try:
        data = yaml.load(text, Loader=_loader(file, duplicates))
        _check_size(data)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else file
        raise ConfigError([Problem(where=where, what=f"not valid YAML: {error.problem or error.context}")]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([Problem(where=file, what=f"not valid YAML: {str(error).splitlines()[0]}")]) from None
    except RecursionError:
        raise ConfigError([Problem(where=file, what="nested too deeply")]) from None
    if duplicates:
        raise ConfigError(duplicates)
    if data is None:
        raise ConfigError([Problem(where=file, what="the file is empty")])
    return data


def _os_error(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return "is a folder, not a file" if isinstance(error, IsADirectoryError) else f"cannot be read ({error.strerror})"


def _loader(file: str, duplicates: list[Problem]) -> type[yaml.SafeLoader]:
    class Loader(yaml.SafeLoader):
        """SafeLoader takes the last of repeated keys without a word; this one notes them."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            first: dict[str, int] = {}
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in first:
                    what = f"key {key.value!r} again; it stands on line {first[key.value]} already"
                    duplicates.append(Problem(where=f"{file}:{line}", what=what))
                first.setdefault(key.value, line)
            return super().construct_mapping(node, deep)

    return Loader


def _check_size(data: Any) -> None:
    """Aliases can make a small file endless or astronomically large."""
    count = 0
    pending = [(data, 0)]
    while pending:
        value, depth = pending.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_NODES:
            raise RecursionError
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        pending.extend((child, depth + 1) for child in children)


def expand_env(data: Any, file: str, env: Mapping[str, str] | None = None) -> Any:
    """`data` with `${X}` and `${X:-default}` in its text values replaced from `env` (the process's environment unless
    given); `$${` stands for a literal `${`. An empty variable takes the default. Raises ConfigError that lists every
    missing one."""
    values = os.environ if env is None else env
    problems: list[Problem] = []

    def replace(text: str, at: str) -> str:
        def value(match: re.Match[str]) -> str:
            name, default = match.groups()
            if match[0] == "$${":
                return "${"
            if name is None:
                what = "'${' does not start a variable; write ${NAME}, ${NAME:-default}, or $${ for a literal ${"
            elif default is not None:
                return values.get(name) or default
            elif name in values:
                return values[name]
            else:
                what = f"environment variable {name!r} is not set; set it, or write ${{{name}:-default}}"
            problems.append(Problem(where=_where(file, at), what=what))
            return ""

        return _VARIABLE.sub(value, text)

    expanded = _map_text(data, replace, "")
    if problems:
        raise ConfigError(problems)
    return expanded


def _map_text(data: Any, change: Callable[[str, str], str], at: str) -> Any:
    if isinstance(data, str):
        return change(data, at)
    if isinstance(data, dict):
        return {key: _map_text(value, change, join(at, str(key))) for key, value in data.items()}
    if isinstance(data, list):
        return [_map_text(value, change, join(at, index)) for index, value in enumerate(data)]
    return data


def join(at: str, step: str | int) -> str:
    """A YAML path one step longer: `layers[2]`, `layers[2].threshold`."""
    if isinstance(step, int):
        return f"{at}[{step}]"
    return f"{at}.{step}" if at else step


def _where(file: str, at: str) -> str:
    return f"{file}: {at}" if at else file


def problems(error: ValidationError, file: str, model: type[BaseModel], at: str = "") -> list[Problem]:
    """What is wrong, in plain words, one entry per YAML path. `at` is the path of the data that `model` describes."""
    found: dict[str, Problem] = {}
    types: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        path, parent = _locate(model, detail, at)
        found.setdefault(path, Problem(where=_where(file, path), what=_plain(detail, parent)))
        types.setdefault(path, detail["type"])
    # Where one member of a union fails deeper inside, the "should be text" of the others is noise.
    noise = {path for path in found if types[path].endswith("_type") and any(_inside(other, path) for other in found)}
    return [problem for path, problem in found.items() if path not in noise]


def _inside(path: str, outer: str) -> bool:
    return path != outer and path.startswith((f"{outer}.", f"{outer}["))


def _locate(model: type[BaseModel], detail: ErrorDetails, at: str) -> tuple[str, type[BaseModel] | None]:
    """The YAML path of an error, without the names that pydantic puts in for the members of a union, and the model
    that holds the last key."""
    unknown = detail["loc"][-1] if detail["type"] == "extra_forbidden" else None
    parent: type[BaseModel] | None = None
    here: list[Any] = [model]
    for step in detail["loc"]:
        parents = [kind for kind in here if isinstance(kind, type) and issubclass(kind, BaseModel)]
        below = [child for kind in here for child in _children(kind, step)]
        if step != unknown and (not below or _is_member_name(step)):
            continue  # the name of a union member or of a validator: not something the user wrote
        parent = next((kind for kind in parents if step in _keys(kind)), parents[0] if parents else None)
        at, here = join(at, step), below
    return at, parent


def _is_member_name(step: str | int) -> bool:
    """`dict[str,any]`, `tuple[int, ...]`: how pydantic calls a member of a union."""
    return isinstance(step, str) and re.fullmatch(r"(dict|list|tuple|set|frozenset)\[.*\]", step) is not None


def _children(kind: Any, step: str | int) -> Iterator[Any]:
    """The types that `kind` may hold under `step`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if step in _keys(kind):
            yield from _members(_keys(kind)[str(step)])
        return
    arguments = get_args(kind)
    base = get_origin(kind)
    if not arguments or not isinstance(base, type):
        return
    if issubclass(base, Mapping) and step != "[key]":
        yield from _members(arguments[1])
    elif isinstance(step, int) and not issubclass(base, Mapping):
        yield from _members(arguments[min(step, len(arguments) - 1)] if arguments[-1] is not ... else arguments[0])


def _members(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, without their metadata."""
    base = get_origin(annotation)
    if base is Annotated:
        yield from _members(get_args(annotation)[0])
    elif base in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _keys(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _plain(detail: ErrorDetails, parent: type[BaseModel] | None) -> str:
    kind, message = detail["type"], detail["msg"]
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(detail['loc'][-1]), _keys(parent) if parent else ())}"
    if kind == "missing":
        return "missing; this key is required"
    if kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        return "should be a mapping (`key: value` lines)"
    if kind in ("list_type", "tuple_type", "set_type", "frozen_set_type"):
        return "should be a list"
    if kind in ("string_type", "string_sub_type"):
        return "should be text; put it in quotes"
    if kind in ("bool_type", "bool_parsing"):
        return "should be a boolean, true or false"
    if kind == "too_short":
        return "should not be empty" if (detail.get("ctx") or {}).get("min_length") == 1 else "has too few entries"
    if kind == "literal_error":
        return _literal(detail)
    if kind == "string_pattern_mismatch" and detail["loc"][-1:] == ("[key]",):
        return "not a valid id: lower-case letters, digits and underscores, a letter first"
    return re.sub(r"^(Input|String|Value error,|Assertion failed,)\s+", "", message)


def _literal(detail: ErrorDetails) -> str:
    message = re.sub(r"^Input ", "", detail["msg"])
    value = detail["input"]
    valid = re.findall(r"'([^']*)'", str((detail.get("ctx") or {}).get("expected", "")))
    close = nearest(value, valid) if isinstance(value, str) else ""
    return message + (close if close.startswith("; did you mean") else "")
