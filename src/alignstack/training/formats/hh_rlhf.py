"""Transcripts as in Anthropic's hh-rlhf (Bai et al. 2022): `chosen` and `rejected`, each
"\\n\\nHuman: … \\n\\nAssistant: …"; what they share is the prompt."""

import re
from itertools import pairwise

from alignstack.training.formats.example import Example, Kind, Raw, Skip, Turn, Wrong, conversation, known, need, text

KEYS = ("chosen", "rejected")
SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]*")
ROLE = {"Human": "user", "Assistant": "assistant"}


def matches(row: Raw) -> bool:
    sides = (row.get("chosen"), row.get("rejected"))
    return "prompt" not in row and all(isinstance(side, str) and SPEAKER.match(side) for side in sides)


def examples(row: Raw, kind: Kind) -> list[Example]:
    """Rows whose transcripts part before the last answer, are the same or lack an answer are left out: the published
    set has some of each."""
    chosen, rejected = (_transcript(need(row, side), side) for side in KEYS)
    if chosen[:-1] != rejected[:-1]:
        raise Skip("transcripts part before the last answer")
    good, bad = chosen[-1]["content"], rejected[-1]["content"]
    if good == bad:
        raise Skip("answers are the same")
    return [Example(prompt=chosen[:-1], good=good, bad=bad, **known(row))]


def _transcript(value: object, where: str) -> tuple[Turn, ...]:
    parts = SPEAKER.split(text(value, where))
    if parts[0].strip() or len(parts) < 5:
        raise Wrong(f"{where!r} must read '\\n\\nHuman: … \\n\\nAssistant: …'")
    said = [{"role": ROLE[who], "content": what.strip()} for who, what in zip(parts[1::2], parts[2::2], strict=True)]
    if not all(turn["content"] for turn in said):
        raise Skip("an empty turn")
    if any(first["role"] == second["role"] for first, second in pairwise(said)):
        raise Skip("one speaker twice in a row")
    return conversation(said, where, "assistant")
