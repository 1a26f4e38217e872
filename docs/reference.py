"""Writes docs/cli.md from the help of the commands: `make docs`. A test fails when the page is not current."""

from collections.abc import Iterator
from pathlib import Path

import click

from alignstack.cli import cli

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Command line

Written by `make docs` from the commands' own help.

- `--json` prints one JSON document on stdout and nothing else there; logs and progress go to stderr.
- Every option can come from the environment: `--max-asr` of `alignstack attribute` is `ALIGNSTACK_ATTRIBUTE_MAX_ASR`,
  else `ALIGNSTACK_MAX_ASR`. What is typed wins.
- Exit codes: 0 done or gate passed · 1 gate failed · 2 bad use or bad configuration · 3 could not finish · 130
  interrupted.
- Errors go to stderr, all at once, with the file and the place in it. With `--json` the document on stdout is
  `{"error": {"kind", "message", "problems": [{"where", "what"}]}, "exit_code"}`. `ALIGNSTACK_DEBUG=1` adds the traceback.
- Traces are kept in `ALIGNSTACK_HOME`, else in the data folder that the platform has for it.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(f"\n## {path}\n\n```text\n{text}\n```\n" for path, text in sections(cli, "alignstack"))


def sections(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Every command with its help, groups before their members."""
    settings = command.context_settings | {"terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, parent, path.split()[-1], **settings)
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from sections(command.commands[name], f"{path} {name}", context)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
