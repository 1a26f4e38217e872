"""A conversation: what the model sees, in the words of every chat API."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeGuard

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn."""

    role: Role
    content: str


Conversation = tuple[Message, ...]


def user(text: str) -> Conversation:
    """A conversation of one user turn."""
    return (Message(role="user", content=text),)


def user_text(messages: Iterable[Message]) -> str:
    """All that the user said, turns joined by newlines: what input layers judge."""
    return "\n".join(message.content for message in messages if message.role == "user")


def last_user_text(messages: Iterable[Message]) -> str:
    """The newest user turn, or an empty string."""
    return next((m.content for m in reversed(tuple(messages)) if m.role == "user"), "")


def digest(*parts: object) -> str:
    """SHA-256 (64 hex digits) of the exact JSON of `parts`; conversations are hashed by role and content."""
    plain = [[[m.role, m.content] for m in p] if _is_conversation(p) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def _is_conversation(value: object) -> TypeGuard[Conversation]:
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, Message) for item in value)
