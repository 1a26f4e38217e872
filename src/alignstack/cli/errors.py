"""How a command ends: exit code, and what is said when something is wrong. Never a traceback for bad input.

0 done, gate passed · 1 gate failed · 2 bad use or bad configuration · 3 could not finish · 130 interrupted.
With `--json` an error is the one document on stdout: `{"error": {"kind", "message", "problems"}, "exit_code"}`.
"""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from alignstack.cli.console import emit, say
from alignstack.core.errors import AlignstackError, ConfigError

GATE_FAILED = 1
BAD_USE = 2
UNFINISHED = 3
INTERRUPTED = 130
PIPE_CLOSED = 141

GOES_ON = {
    "audit": "; finished items are kept, and `--resume` goes on",
    "demo": "; finished items are kept, and the same command goes on",
    "stages": "; finished items are kept, and the same command goes on",
}
"""What to do about an interruption, by command."""


def run(group: click.Group, arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        code = group.main(list(arguments), prog_name="alignstack", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        _give_up_stdout()
        return PIPE_CLOSED
    except (click.Abort, KeyboardInterrupt):
        say("interrupted" + next((hint for command, hint in GOES_ON.items() if command in arguments), ""))
        return INTERRUPTED
    except Exception as error:
        return _failed(error, as_json=_wants_json(arguments))


def _wants_json(arguments: Sequence[str]) -> bool:
    """Also when the arguments did not parse."""
    typed = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in typed or os.environ.get("ALIGNSTACK_JSON", "").lower() in {"1", "true", "yes", "on"}


def _give_up_stdout() -> None:
    """It cannot be written to; point it elsewhere, so that the interpreter's last flush is quiet."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(error: Exception, *, as_json: bool) -> int:
    code = exit_code(error)
    if os.environ.get("ALIGNSTACK_DEBUG"):
        traceback.print_exception(error)
    try:
        if as_json:
            emit({"error": document(error), "exit_code": code})
        sys.stdout.flush()
    except OSError:
        _give_up_stdout()
    say(f"alignstack: {message(error)}")
    return code


def exit_code(error: Exception) -> int:
    match error:
        case AlignstackError():
            return error.exit_code
        case click.ClickException():
            return BAD_USE
        case FileNotFoundError() | FileExistsError() | PermissionError() | NotADirectoryError() | IsADirectoryError():
            return BAD_USE
        case _:
            return UNFINISHED


def document(error: Exception) -> dict[str, Any]:
    """The error as JSON; `problems` lists them one by one where a configuration has several."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    return {
        "kind": type(error).__name__,
        "message": message(error),
        "problems": [{"where": problem.where, "what": problem.what} for problem in problems],
    }


def message(error: Exception) -> str:
    """What is wrong and the way out, for a person."""
    match error:
        case ConfigError() if len(error.problems) > 1:
            return f"{len(error.problems)} problems\n" + "\n".join(f"  {problem}" for problem in error.problems)
        case AlignstackError():
            return str(error)
        case click.exceptions.NoArgsIsHelpError():
            return f"name a command\n\n{error.format_message()}"
        case click.UsageError():
            hint = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
            return f"{error.format_message().rstrip('.')}{hint}"
        case click.ClickException():
            return error.format_message()
        case OSError() if error.filename is not None:
            return f"{os.fsdecode(error.filename)!r}: {error.strerror}"
        case OSError(errno=errno.ENOSPC):
            return f"cannot write: {error.strerror}"
        case _:
            return (
                f"{type(error).__name__}: {error} (this is a fault of alignstack, not of your input; "
                "ALIGNSTACK_DEBUG=1 shows where)"
            )
