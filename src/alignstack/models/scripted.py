"""A model that says what a script says: the same reply to the same message, every time, anywhere.

Public: documentation, tests and plugins use it. It streams word by word, so that token gates have something to hold.
It plays its replies in full, whatever `Sampling.max_tokens` says.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alignstack.core.errors import ConfigError, Problem
from alignstack.core.messages import Message, digest, last_user_text
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.policy import OPENING
from alignstack.policy.strict import problems

_WORD = re.compile(r"\s*\S+|\s+")


class Call(BaseModel):
    """A tool that the model asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    arguments: str | dict[str, Any] = "{}"
    """An object, or the very text that the model writes."""

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


class Reply(BaseModel):
    """One line of a script."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = ""
    """Substring of the last user message, case included; empty matches every message."""
    system: Literal["any", "present", "absent"] = "any"
    """Whether the model's input must have a system message."""
    reply: str
    refusal: bool = False
    """The reply is sent the way in which some servers send refusals: apart from the answer."""
    calls: tuple[Call, ...] = ()
    """Tools that are asked for after the reply. When their results are the last turn, the reply fits no more."""

    def fits(self, messages: Sequence[Message]) -> bool:
        if self.calls and messages and messages[-1].role == "tool":
            return False
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
    delay_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    """Milliseconds before each token, for tests and examples that need a slow model."""


class Scripted:
    """Tokens are words with the white space before them. Input tokens are counted the same way."""

    Config = ScriptedConfig
    name = "scripted"

    def __init__(self, config: ScriptedConfig, *, base: Path = Path()) -> None:
        replies = config.replies
        self._replies = read(base / replies) if isinstance(replies, str) else replies
        self._default = Reply(reply=config.default)
        self._delay_s = config.delay_ms / 1000
        self.version = digest("scripted", [_plain(reply) for reply in self._replies], config.default)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        reply = next((entry for entry in self._replies if entry.fits(messages)), self._default)
        deltas = list(_deltas(reply, sum(len(message.calls) for message in messages)))
        for delta in deltas:
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            yield delta
        asked = sum(len(message.content.split()) for message in messages)
        reason: Literal["stop", "tool_calls"] = "tool_calls" if reply.calls else "stop"
        yield Finish(reason=reason, input_tokens=asked, output_tokens=len(deltas))


def _deltas(reply: Reply, called: int) -> Iterator[Delta]:
    """`called` calls stand in the conversation already: ids go on from there."""
    for word in _WORD.findall(reply.reply):
        yield Delta(text=word, kind="refusal" if reply.refusal else "text")
    for index, call in enumerate(reply.calls):
        yield Delta(text="", kind="call", index=index, call_id=f"call_{called + index}", name=call.name)
        for word in _WORD.findall(call.text):
            yield Delta(text=word, kind="call", index=index)


def _plain(reply: Reply) -> dict[str, Any]:
    """What makes the version; keys that a script does not use are not part of it."""
    unused = {name for name in ("refusal", "calls") if not getattr(reply, name)}
    return reply.model_dump(exclude=unused)


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
