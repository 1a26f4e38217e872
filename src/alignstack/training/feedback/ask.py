"""Many questions to models: so many at once, again where that may help, failures counted and never guessed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from alignstack.core.errors import Unavailable
from alignstack.core.messages import Conversation
from alignstack.core.ports import Delta, ModelClient, Sampling
from alignstack.training.feedback.case import Case, Feedback, NoVerdict
from alignstack.training.monitor import Now
from alignstack.training.progress import Progress

T = TypeVar("T")

ATTEMPTS = 3
"""Times that a model is asked for one thing before the row is dropped; each with another seed. Failed connections are
tried again by the model client itself."""
MAX_FAILED = 0.2
"""Share of the rows that may fail before the run stops: beyond it something is wrong with the model, and what is left
is no fair sample. Chosen by hand."""
FEW = 8
"""Failures that never stop a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """No answer, or none of use, after all attempts."""

    why: str


def all_of(
    cases: Sequence[Case], feedback: Sequence[Feedback], ask: Callable[[Case, int], Awaitable[T]],
    keep: Callable[[Case, T | Failed], None], *, title: str,
) -> None:  # fmt: skip
    """Asks about every case, as many at once as the first source of feedback allows; `ask` gets the number of the
    attempt, `keep` each answer as it comes. Raises Unavailable when too many fail."""

    async def run() -> None:
        try:
            await _all(cases, feedback[0].at_once, ask, keep, title)
        finally:
            for source in feedback:
                await source.aclose()

    asyncio.run(run())


async def _all(
    cases: Sequence[Case], at_once: int, ask: Callable[[Case, int], Awaitable[T]],
    keep: Callable[[Case, T | Failed], None], title: str,
) -> None:  # fmt: skip
    waiting, done, failed = iter(cases), 0, 0
    bar = Progress(title)
    bar.begin(_at(0, cases))

    async def work() -> None:
        nonlocal done, failed
        for case in waiting:  # each worker takes the next that nobody has taken
            said = await _attempts(case, ask)
            keep(case, said)
            done, failed = done + 1, failed + isinstance(said, Failed)
            bar.step(_at(done, cases))
            if isinstance(said, Failed) and failed > max(FEW, MAX_FAILED * len(cases)):
                raise Unavailable(f"{title}: {failed} of the first {done} requests failed, so the run stops; the last: "
                                  f"{said.why}. What was said so far is kept, and `--resume` goes on")  # fmt: skip

    workers = [asyncio.ensure_future(work()) for _ in range(min(at_once, len(cases)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        bar.end(_at(done, cases))


def _at(done: int, cases: Sequence[Case]) -> Now:
    return Now(step=done, steps=len(cases), epoch=0.0)


async def _attempts(case: Case, ask: Callable[[Case, int], Awaitable[T]]) -> T | Failed:
    why = ""
    for attempt in range(ATTEMPTS):
        try:
            return await ask(case, attempt)
        except Unavailable as error:
            why = str(error)
    return Failed(why=why)


async def complete(model: ModelClient, messages: Conversation, sampling: Sampling) -> tuple[str, list[str]]:
    """The text of an answer, and what the server sent beside its pieces (JSON objects). Raises ModelUnavailable, and
    NoVerdict for an answer that is empty or was cut off."""
    text, more, reason = "", [], "stop"
    async for piece in model.stream(messages, sampling):
        if not isinstance(piece, Delta):
            reason = piece.reason
        elif piece.kind in ("text", "refusal"):
            text += piece.text
            more += [piece.more] if piece.more else []
    if reason == "length":
        raise NoVerdict(f"the answer of {model.name!r} did not end within {sampling.max_tokens} tokens")
    if not text.strip():
        raise NoVerdict(f"{model.name!r} gave an empty answer")
    return text.strip(), more
