"""Small layers and models to build stacks from: real ones, only simple."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from alignstack import policy
from alignstack.core.errors import ModelUnavailable
from alignstack.core.layer import LayerInfo, Phase, View
from alignstack.core.messages import Message, digest, user_text
from alignstack.core.ports import Delta, Finish, Sampling
from alignstack.core.verdict import ALLOW, Verdict
from alignstack.engine.stack import WEIGHTS, Placed, Stack, in_order

POLICY = policy.load(None)
REFUSAL = "no."


class Clock:
    def now(self) -> float:
        return time.time()

    def tick(self) -> float:
        return time.monotonic()


CLOCK = Clock()


class Rule:
    """A layer made of one function from view to verdict."""

    def __init__(
        self,
        name: str,
        rule: Callable[[View], Verdict],
        *,
        phase: Phase = "request",
        kind: str = "veto",
        delay: float = 0.0,
        **info: object,
    ) -> None:
        self.info = LayerInfo(name=name, use="rule", phases=(phase,), kind=kind, version=digest(name), **info)
        self.rule = rule
        self.delay = delay
        self.seen: list[View] = []
        self.decided = 0

    async def check(self, view: View) -> Verdict:
        self.seen.append(view)
        if self.delay:
            await asyncio.sleep(self.delay)
        self.decided += 1
        return self.rule(view)


def allow(view: View) -> Verdict:
    return ALLOW


def block(view: View) -> Verdict:
    return Verdict(action="block", score=1.0, reason="always")


def crash(view: View) -> Verdict:
    raise RuntimeError("broken layer")


def flags(*words: str) -> Callable[[View], Verdict]:
    """Blocks texts with one of the words."""
    return lambda view: block(view) if any(word in view.text for word in words) else Verdict(action="allow", score=0.0)


@dataclass
class Says:
    """A model that says `reply(messages)`, one Delta per piece."""

    reply: Callable[[Sequence[Message]], list[str]]
    name: str = "says"
    version: str = "1"
    delay: float = 0.0
    fails_after: int | None = None
    """Pieces after which it drops the stream."""
    tokens: Callable[[str], int] = field(default=lambda piece: 1)
    asked: list[tuple[Message, ...]] = field(default_factory=list)
    spoken: int = 0
    closed: int = 0

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        self.asked.append(tuple(messages))
        pieces = self.reply(messages)
        try:
            for index, piece in enumerate(pieces):
                if index == self.fails_after:
                    raise ModelUnavailable("dropped the stream")
                if self.delay:
                    await asyncio.sleep(self.delay)
                self.spoken += 1
                yield Delta(text=piece, tokens=self.tokens(piece))
            if self.fails_after is not None and self.fails_after >= len(pieces):
                raise ModelUnavailable("dropped the stream")
            yield Finish(reason="stop", output_tokens=len(pieces))
        finally:
            self.closed += 1


def says(text: str, **more: object) -> Says:
    """Always the same answer, letter by letter."""
    return Says(lambda messages: list(text), **more)


def echo(messages: Sequence[Message]) -> list[str]:
    return list(user_text(messages))


def place(layer: Rule, **more: object) -> Placed:
    return Placed(layer=layer, info=layer.info, **more)


def stack(*layers: Placed | Rule, model: Says | None = None, **more: object) -> Stack:
    """A stack without a file."""
    model = model or says("fine")
    info = LayerInfo(
        name=WEIGHTS, use="says", phases=("model",), kind="modifier", version=model.version, side="training"
    )
    placed = [layer if isinstance(layer, Placed) else place(layer) for layer in layers]
    more.setdefault("refusal", REFUSAL)
    return Stack(
        layers=in_order(placed, Placed(layer=None, info=info, where="model")), model=model, policy=POLICY, **more
    )
