"""A model that says what a script says: the same reply to the same message, every time, anywhere.

Public: documentation, tests and plugins use it. It streams word by word, so that token gates have something to hold.
It plays its replies in full, whatever `Sampling.max_tokens` says.
"""

import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from alignstack.core.errors import ConfigError, Problem
from alignstack.core.messages import Message, digest, last_user_text
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.policy import OPENING
from alignstack.policy.strict import problems

_WORD = re.compile(r"\s*\S+|\s+")


class Reply(BaseModel):
    """One line of a script."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = ""
    """Substring of the last user message, case included; empty matches every message."""
    system: Literal["any", "present", "absent"] = "any"
    """Whether the model's input must have a system message."""
    reply: str

    def fits(self, messages: Sequence[Message]) -> bool:
        present = any(message.role == "system" for message in messages)
        wanted = {"any": True, "present": present, "absent": not present}[self.system]
        return wanted and self.match in last_user_text(messages)


class ScriptedConfig(BaseModel):
    """Keys in the stack file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replies: str | tuple[Reply, ...] = ()
    """A JSONL file, relative to the stack file, or the replies themselves. The first that fits is given."""
    default: str = OPENING
    """The reply when none fits."""


class Scripted:
    """Tokens are words with the white space before them. Input tokens are counted the same way."""

    Config = ScriptedConfig
    name = "scripted"

    def __init__(self, config: ScriptedConfig, *, base: Path = Path()) -> None:
        replies = config.replies
        self._replies = read(base / replies) if isinstance(replies, str) else replies
        self._default = config.default
        self.version = digest("scripted", [reply.model_dump() for reply in self._replies], config.default)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        reply = next((entry.reply for entry in self._replies if entry.fits(messages)), self._default)
        words = _WORD.findall(reply)
        for word in words:
            yield Delta(text=word)
        asked = sum(len(message.content.split()) for message in messages)
        yield Finish(reason="stop", input_tokens=asked, output_tokens=len(words))


def read(path: Path) -> tuple[Reply, ...]:
    """The replies of a JSONL file. Raises ConfigError that lists every bad line."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ConfigError([Problem(where=str(path), what=what)]) from None
    replies: list[Reply] = []
    found: list[Problem] = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            _add(line, f"{path}:{number}", replies, found)
    if not (replies or found):
        found.append(Problem(where=str(path), what="holds no replies; leave `replies` out to always give `default`"))
    if found:
        raise ConfigError(found)
    return tuple(replies)


def _add(line: bytes, where: str, replies: list[Reply], found: list[Problem]) -> None:
    try:
        replies.append(Reply.model_validate(json.loads(line.decode("utf-8"))))
    except UnicodeDecodeError:
        found.append(Problem(where=where, what="not UTF-8 text"))
    except json.JSONDecodeError as error:
        found.append(Problem(where=where, what=f"not valid JSON: {error.msg} (column {error.colno})"))
    except RecursionError:
        found.append(Problem(where=where, what="nested too deeply"))
    except ValidationError as error:
        found += problems(error, where, Reply)
