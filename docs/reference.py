"""Writes docs/cli.md from the help of the commands and docs/stack.md from the layers, models, judges and attacks: `make
docs`. A test writes them to another folder (the only argument) and fails when a page is not current."""

import ast
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from alignstack.cli import cli
from alignstack.engine import keys, registry
from alignstack.gateway import settings as gateway

CLI = """# Command line

Written by `make docs` from the commands' own help.

- `--json` prints one JSON document on stdout and nothing else there; logs and progress go to stderr.
- Every option can come from the environment: `--max-asr` of `alignstack attribute` is `ALIGNSTACK_ATTRIBUTE_MAX_ASR`,
  else `ALIGNSTACK_MAX_ASR`. What is typed wins.
- Exit codes: 0 done or gate passed · 1 gate failed · 2 bad use or bad configuration · 3 could not finish · 130
  interrupted.
- Errors go to stderr, all at once, with the file and the place in it. With `--json` the document on stdout is
  `{"error": {"kind", "message", "problems": [{"where", "what"}]}, "exit_code"}`.
- `ALIGNSTACK_DEBUG=1` adds the traceback to an error.
- Traces are kept in `ALIGNSTACK_HOME`, else in the data folder that the platform has for it.
"""

STACK = """# Stack files

Written by `make docs` from the code.

A stack file names a model, the layers round it in order, and the judges of its audits. Relative paths start at the
folder of the file they stand in. `${NAME}` and `${NAME:-default}` come from the environment; a missing one is an error.
Unknown keys are errors, with the nearest valid name; all errors come at once. `alignstack schema stack` prints the JSON
Schema. What `--stack` leaves out is the built-in stack, `src/alignstack/engine/builtin.yaml`.

Packages add their own layers, models, judges and attacks by entry points in the groups named below.
"""

TITLES: Mapping[registry.Group, str] = {
    "layers": "Layers", "models": "Models", "judges": "Judges", "attacks": "Attacks"
}  # fmt: skip


def cli_page() -> str:
    return CLI + "".join(f"\n## {path}\n\n```text\n{text}\n```\n" for path, text in commands(cli, "alignstack"))


def commands(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Every command with its help, groups before their members."""
    settings = command.context_settings | {"terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, parent, path.split()[-1], **settings)
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from commands(command.commands[name], f"{path} {name}", context)


def stack_page() -> str:
    common = [
        ("Top level", keys.StackKeys),
        ("Sampling", keys.SamplingKeys),
        ("Keys of every layer", keys.LayerKeys),
        ("Keys of every model", keys.ModelKeys),
        ("Keys of every judge", keys.JudgeKeys),
        ("`serve`: the gateway", gateway.Settings),
        ("`serve.limits`", gateway.LimitKeys),
        ("`serve.person_limits`", gateway.PersonLimitKeys),
        ("`serve.traces`", gateway.TraceKeys),
        ("`serve.abuse`", gateway.AbuseKeys),
        ("`serve.abuse.actions`", gateway.ActionKeys),
        ("`serve.telemetry`", gateway.TelemetryKeys),
    ]
    parts = [STACK, *(f"\n## {title}\n\n{settings(model)}" for title, model in common)]
    return "".join([*parts, *(group_section(group) for group in registry.GROUPS)])


def group_section(group: registry.Group) -> str:
    own = [p for p in registry.available(group).values() if p.distribution == "alignstack"]
    return f"\n## {TITLES[group]}\n\nEntry points: `alignstack.{group}`.\n" + "".join(map(plugin_section, own))


def plugin_section(plugin: registry.Plugin) -> str:
    if plugin.loaded is None:
        sys.exit(f"{plugin.target} does not load: {plugin.error}")
    text = inspect.getdoc(sys.modules[plugin.loaded.__module__]) or ""
    table = settings(plugin.loaded.Config) if plugin.group != "attacks" else ""
    text = text.replace("\nDoes not ", "\n\nDoes not ")
    return f"\n### `{plugin.name}`\n\n{text}\n" + (f"\n{table}" if table else "")


def settings(model: type[BaseModel]) -> str:
    """One row for each key."""
    properties = model.model_json_schema().get("properties", {})
    said = field_docs(model)
    rows = [
        f"| `{name}` | {kind(entry)} | {default(model, name)} | {entry.get('description') or said.get(name, '')} |\n"
        for name, entry in properties.items()
    ]
    return "| key | value | default | |\n|---|---|---|---|\n" + "".join(rows) if rows else ""


def kind(entry: Mapping[str, Any]) -> str:
    """The type of a JSON Schema property in a few words."""
    if "enum" in entry:
        return " or ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(kind(one) for one in entry["anyOf"] if one.get("type") != "null"))
    if entry.get("type") == "array":
        return f"list of {kind(entry.get('items', {}))}"
    words = {"string": "text", "integer": "whole number", "object": "mapping", "boolean": "`true` or `false`"}
    return words.get(entry.get("type", "object"), str(entry.get("type"))) + bounds(entry)


def bounds(entry: Mapping[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {entry[word]:,}" for word, sign in words.items() if word in entry]
    return " " + ", ".join(found) if found else ""


def default(model: type[BaseModel], name: str) -> str:
    field = model.model_fields.get(name)
    if field is None or field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == () or isinstance(value, BaseModel):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The text under each field, on one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    return {
        field.target.id: " ".join(str(text.value.value).split()).replace("|", "\\|")
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


PAGES: Mapping[str, Callable[[], str]] = {"cli.md": cli_page, "stack.md": stack_page}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent
    for name, write in PAGES.items():
        (folder / name).write_text(write(), encoding="utf-8")
