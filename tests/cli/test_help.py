"""Help: every command explains itself, gives an example that parses, and takes every option from the environment."""

import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from alignstack.cli import cli as group


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, member in command.commands.items():
            yield from commands(member, (*path, name))


ALL = dict(commands(group))
LEAVES = {path: command for path, command in ALL.items() if not isinstance(command, click.Group)}


def examples(command: click.Command) -> list[str]:
    text = (command.help or "").partition("Example:\n")[2]
    return [line.strip().rpartition("| ")[2].partition(" > ")[0].partition(" < ")[0] for line in text.splitlines()]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_an_example_that_parses(path: tuple[str, ...]) -> None:
    found = [shlex.split(line) for line in examples(ALL[path]) if line.startswith("alignstack ")]
    assert found
    for words in found:
        target = next(p for p in sorted(LEAVES, key=len, reverse=True) if tuple(words[1 : len(p) + 1]) == p)
        LEAVES[target].make_context(" ".join(target), words[len(target) + 1 :])


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_takes_json(path: tuple[str, ...]) -> None:
    assert "--json" in {flag for parameter in LEAVES[path].params for flag in parameter.opts}


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_option_can_come_from_the_environment(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    context = click.Context(LEAVES[path], info_name="alignstack " + " ".join(path))
    for option in (p for p in LEAVES[path].params if isinstance(p, click.Option)):
        word = max(option.opts, key=len).lstrip("-").replace("-", "_").upper()
        with monkeypatch.context() as patch:
            patch.setenv(f"ALIGNSTACK_{word}", "general")
            assert option.resolve_envvar_value(context) == "general"
            patch.setenv("_".join(("ALIGNSTACK", *path, word)).upper().replace("-", "_"), "special")
            assert option.resolve_envvar_value(context) == "special"


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; import alignstack.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"numpy", "pydantic", "rich", "torch", "aiohttp", "yaml", "onnxruntime"} & set(loaded)


def test_short_help_is_not_cut() -> None:
    room = 78 - 6 - max(map(len, group.commands))
    assert not [name for name, command in group.commands.items() if command.get_short_help_str(room).endswith("...")]
