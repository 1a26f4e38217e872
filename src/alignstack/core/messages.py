"""A conversation: what the model sees, in the words of every chat API."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The model asks for a tool."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn. Layers read `content`; the rest travels to the model."""

    role: Role
    content: str
    """All text of the turn; several text parts joined by newlines."""
    parts: str = field(default="", repr=False)
    """JSON list of the content parts in the words of chat completions, when the turn is more than one text. What a
    model client sends; when a modifier has changed `content`, the new text and the parts that are no text."""
    media: tuple[str, ...] = ()
    """Kinds of the parts that are no text (`image_url`, `input_audio`, `file`): no layer reads them."""
    calls: tuple[ToolCall, ...] = ()
    """Tools that an assistant turn asked for."""
    call_id: str = ""
    """The call that a `tool` turn answers."""
    more: str = ""
    """JSON object of further keys of the turn (`name`, …), passed to model servers as they are."""


Conversation = tuple[Message, ...]


def user(text: str) -> Conversation:
    """A conversation of one user turn."""
    return (Message(role="user", content=text),)


def user_text(messages: Iterable[Message]) -> str:
    """All that the user said, turns joined by newlines: what input layers judge. Of a conversation without a user turn
    all that it holds, or a request could hide behind another role."""
    turns = tuple(messages)
    said = [message.content for message in turns if message.role == "user"]
    return "\n".join(said or [message.content for message in turns])


def last_user_text(messages: Iterable[Message]) -> str:
    """The newest user turn, or an empty string."""
    return next((m.content for m in reversed(tuple(messages)) if m.role == "user"), "")


def digest(*parts: object) -> str:
    """SHA-256 (64 hex digits) of the exact JSON of `parts`; conversations are hashed by role, content and whatever else
    travels with a turn."""
    return seal(*map(written, parts))


def seal(*parts: str) -> str:
    """`digest` of what has been `written` already."""
    return hashlib.sha256(f"[{','.join(parts)}]".encode()).hexdigest()


def written(part: object) -> str:
    """The JSON that `digest` hashes."""
    return _encode([_plain(message) for message in part] if _is_conversation(part) else part)


_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def _plain(message: Message) -> list[object]:
    calls = [[call.id, call.name, call.arguments] for call in message.calls]
    rest = [message.parts, calls, message.call_id, message.more]
    return [message.role, message.content, *(rest if any(rest) else ())]


def _is_conversation(value: object) -> TypeGuard[Conversation]:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Message)
