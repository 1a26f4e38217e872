"""Rows of an audit's suite: `text` or `messages` that end with the user, `label` (harmful or benign), `hazard`.
`alignstack patch` writes its prompts in this form."""

from alignstack.core.errors import nearest
from alignstack.training.formats.example import (
    SIDES,
    Example,
    Kind,
    Raw,
    Wrong,
    conversation,
    known,
    need,
    short,
    turns,
    user,
)
from alignstack.training.formats.example import text as checked

KEYS = ("id", "text", "messages", "label", "hazard", "cluster", "source", "licence")


def matches(row: Raw) -> bool:
    return row.get("label") in SIDES and ("text" in row or _asks(row.get("messages")))


def _asks(said: object) -> bool:
    """Rows of `messages` that end with an answer are TRL's."""
    return isinstance(said, list) and bool(said) and isinstance(said[-1], dict) and said[-1].get("role") == "user"


def examples(row: Raw, kind: Kind) -> list[Example]:
    label = need(row, "label")
    if label not in SIDES:
        raise Wrong(f"'label' is {short(label)}{nearest(str(label), SIDES)}")
    if ("text" in row) == ("messages" in row):
        raise Wrong("needs one of 'text' and 'messages'")
    if "text" in row:
        prompt = user(checked(row["text"], "text"))
    else:
        prompt = conversation(turns(row["messages"], "messages"), "messages", "user")
    return [Example(prompt=prompt, **known(row) | {"side": label})]
