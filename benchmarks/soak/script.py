"""What a request asks the faulty model server for. Server and client work it out from the request's text alone, so the
client knows what it may receive."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

MARKER = "swordfish"
"""What the output layer must stop."""
FORBIDDEN = "bomb"
"""What the input layer must stop."""
REFUSAL = "This deployment does not do that."

GOOD = ("plain", "late", "slow")
"""Answers that arrive whole: at once, after a pause, piece by piece."""
STOPPED = ("marker", "split")
"""Answers that hold the marker, in one piece or in two, and more words behind it."""
BROKEN = (
    "reset_early",  # before the status line
    "reset_head",  # after the headers
    "reset_mid",  # in the middle of the answer
    "garbage",  # bytes that are not HTTP
    "noise",  # a body that is neither JSON nor an event stream
    "truncated",  # JSON that breaks off
    "bad_sse",  # lines that no event stream has
    "busy",  # 429 with Retry-After
    "fail500",
    "fail503",
    "hang",  # no answer at all
)
ENDLESS = "endless"
"""An answer that goes on for as long as somebody reads."""

WORDS = (
    "basil beans beets carrots chard chives cress dill fennel kale leeks lettuce mint onions parsley peas sage".split()
)
TAG = re.compile(rb"\[(\d+):(\w+):(\w*)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One answer of the model server."""

    number: int
    """Of the request, unique in a run."""
    name: str
    group: str = ""
    """Whose requests the server counts together."""

    @property
    def tag(self) -> str:
        """What stands in the request."""
        return f"[{self.number}:{self.name}:{self.group}]"

    def pieces(self) -> Iterator[str]:
        """What the server says, if nothing stops it; begins with the number, so that no two answers are alike."""
        draw = Random(self.number)
        yield f"Row {self.number}:"
        words = [f" {word}" for word in draw.choices(WORDS, k=draw.randint(10, 36))]
        yield from words[: len(words) // 2] if self.name in BROKEN else words
        if self.name in STOPPED:
            yield from (f" {MARKER}",) if self.name == "marker" else (" sword", "fish")
            yield from (f" leak{number}" for number in range(8))
        while self.name == ENDLESS:
            yield f" {draw.choice(WORDS)}"

    def checked(self) -> Iterator[str]:
        """The pieces that may leave: those before the one that completes the marker."""
        said = ""
        for piece in self.pieces():
            said += piece
            if MARKER in said:
                return
            yield piece

    def allows(self, text: str) -> bool:
        """Is `text` the beginning of what may leave?"""
        return "".join(islice(self.checked(), len(text))).startswith(text)

    @property
    def whole(self) -> str:
        return "".join(self.pieces())


def asked(body: bytes) -> Script | None:
    """The script that a request names."""
    found = TAG.search(body)
    if found is None:
        return None
    number, name, group = (part.decode() for part in found.groups())
    return Script(number=int(number), name=name, group=group)
