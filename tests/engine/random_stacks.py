"""Stacks at random: vetoes that change their mind, modifiers that block, models that depend on every byte."""

from collections.abc import Callable

from hypothesis import strategies as st

from alignstack.core.layer import View
from alignstack.core.messages import Message, digest, user
from alignstack.core.trace import Trace
from alignstack.core.verdict import ALLOW, Verdict
from alignstack.engine.run import run, stream
from alignstack.engine.stack import WEIGHTS, Placed, Stack
from tests.engine.parts import CLOCK, Rule, Says, block, crash, place, stack

LETTERS = "abcdef"


def veto(letter: str, odd: bool, breaks_on: str) -> Callable[[View], Verdict]:
    """Blocks a letter, or an odd number of it (so a longer draft may be innocent again); crashes on another letter."""

    def rule(view: View) -> Verdict:
        count = view.text.count(letter)
        if view.text.count(breaks_on) > 1:
            return crash(view)
        return block(view) if (count % 2 if odd else count > 1) else Verdict(action="allow", score=0.1)

    return rule


def modifier(letter: str, breaks_on: str) -> Callable[[View], Verdict]:
    """Says more to the model before it, and replaces a letter after it; sometimes it blocks or does nothing."""

    def rule(view: View) -> Verdict:
        if view.draft is not None:
            return Verdict(action="modify", text=view.draft.replace(letter, "z"))
        if breaks_on in view.text:
            return block(view) if breaks_on < letter else ALLOW
        return Verdict(action="modify", messages=(Message(role="system", content=letter), *view.messages))

    return rule


@st.composite
def layers(draw: st.DrawFn) -> list[Placed]:
    letters = st.sampled_from(LETTERS)
    found = []
    for index in range(draw(st.integers(1, 5))):
        phase = draw(st.sampled_from(["request", "prompt", "output", "output"]))
        kind = draw(st.sampled_from(["veto", "veto", "modifier"]))
        letter, breaks_on = draw(letters), draw(letters)
        rule = veto(letter, draw(st.booleans()), breaks_on) if kind == "veto" else modifier(letter, breaks_on)
        window = draw(st.sampled_from([None, 2, 5]))
        layer = Rule(f"l{index}", rule, phase=phase, kind=kind, window=window)
        mode = draw(st.sampled_from(["enforce", "enforce", "enforce", "shadow"]))
        on_error = draw(st.sampled_from(["block", "allow"]))
        found.append(place(layer, mode=mode, on_error=on_error))
    return found


def speaker(version: str, tokens: int, fails: bool) -> Says:
    """Says letters that depend on all it was told."""

    def reply(messages: tuple[Message, ...]) -> list[str]:
        return [LETTERS[int(c, 16) % len(LETTERS)] for c in digest(version, tuple(messages))[:9]]

    return Says(
        reply, version=version, tokens=lambda piece: tokens if piece in "ace" else 1, fails_after=0 if fails else None
    )


@st.composite
def stacks(draw: st.DrawFn) -> Stack:
    reference = draw(st.sampled_from([None, speaker("base", 1, False), speaker("base2", 2, False)]))
    model = speaker(
        draw(st.sampled_from("xyz")), draw(st.sampled_from([1, 3])), draw(st.sampled_from([False] * 5 + [True]))
    )
    return stack(
        *draw(layers()),
        model=model,
        reference=reference,
        race=draw(st.booleans()),
        streaming=draw(st.booleans()),
        window=draw(st.integers(1, 4)),
    )


def players(built: Stack) -> list[str]:
    """Everything that can be switched off and matters."""
    return sorted(built.enforced - (frozenset() if built.reference else {WEIGHTS}))


async def really(built: Stack, text: str, off: frozenset[str]) -> tuple[str, Trace]:
    """The stack run with layers off, streamed where it streams: what the client received, and the trace."""
    asked = {"clock": CLOCK, "trace_id": "t", "off": off}
    if not built.streaming:
        trace = await run(built, user(text), **asked)
        return trace.outcome.delivered, trace
    *pieces, trace = [item async for item in stream(built, user(text), **asked)]
    return "".join(pieces), trace
