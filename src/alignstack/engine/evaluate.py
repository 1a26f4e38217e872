"""Evaluate-all: every layer gives its verdict, even after another has blocked, in every subset of the modifiers.

Only distinct inputs are asked. A veto's verdict depends on the bytes it sees and a draft on the bytes the model sees,
so calls and generations are shared between cells wherever those are the same; what vetoes do together follows from
the grid by Boolean OR (`alignstack.engine.outcomes`).
"""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from alignstack.core.events import LayerError
from alignstack.core.grid import Call, Cell, Draft, Grid
from alignstack.core.layer import Phase, View
from alignstack.core.messages import Conversation, digest, user
from alignstack.core.ports import Clock, Sampling
from alignstack.engine.check import Answer, blocks, check, edited, narrowed, sound
from alignstack.engine.generate import draft_of, positions
from alignstack.engine.memo import Memo
from alignstack.engine.stack import Placed, Stack

Key = tuple[object, ...]
Pending = asyncio.Future[tuple[Key, Call]]


@dataclass(frozen=True, slots=True)
class _Cell:
    """One subset of the modifiers, before it is numbered."""

    on: tuple[str, ...]
    draft: Draft
    calls: tuple[tuple[Key, Call], ...]


async def evaluate(
    stack: Stack, messages: Conversation, *, clock: Clock, memo: Memo | None = None, seed: int | None = None
) -> Grid:
    """All cells of one conversation and one draw (`seed` instead of the stack's). Nothing is raised for layers or
    models that fail: calls carry the fault, drafts are `unavailable`."""
    sampling = stack.sampling if seed is None else replace(stack.sampling, seed=seed)
    work = _Evaluation(stack, messages, clock, Memo() if memo is None else memo, sampling)
    cells = await asyncio.gather(*(work.cell(off) for off in _subsets(stack.modifiers())))
    return _grid(cells)


async def check_text(
    placed: Placed, text: str, *, clock: Clock, messages: Conversation = (), memo: Memo | None = None
) -> Call:
    """One veto on any text, whole and without a time limit: the replay that shows what it says of evidence it had
    not seen. For output layers `text` is the draft, `messages` the conversation before it."""
    phase = placed.info.phases[0]
    view = View(
        phase=phase,
        messages=messages if phase == "output" else user(text),
        draft=text if phase == "output" else None,
        audit=True,
    )
    key = ("text", placed.name, placed.info.version, view.digest)
    answer = await (Memo() if memo is None else memo).get(
        key, lambda: check(placed, view, clock=clock, whole=True), keep=sound
    )
    return _call(placed, [(None, answer)])


def _subsets(names: Sequence[str]) -> list[frozenset[str]]:
    """What is off, from everything to nothing."""
    sizes = range(len(names), -1, -1)
    return [frozenset(off) for size in sizes for off in itertools.combinations(names, size)]


class _Evaluation:
    """One conversation, one draw. Within it the same question has one answer, a fault included, so that cells agree;
    between evaluations the memo forgets faults."""

    def __init__(self, stack: Stack, messages: Conversation, clock: Clock, memo: Memo, sampling: Sampling) -> None:
        self.stack = stack
        self.messages = messages
        self.clock = clock
        self.memo = memo
        self.sampling = sampling
        self.asked: dict[Key, asyncio.Task[Answer]] = {}
        self.digests: dict[Key, str] = {}
        self.drafts: dict[Key, asyncio.Task[Draft]] = {}

    async def cell(self, off: frozenset[str]) -> _Cell:
        calls: list[Pending] = []
        view = View(phase="request", messages=self.messages, audit=True)
        view = await self._through("request", view, off, calls)
        view = await self._through("prompt", replace(view, phase="prompt"), off, calls)
        draft = await self._draft(off, view.messages)
        if draft.finish != "unavailable":  # an answer that never came is not checked
            view = await self._through("output", replace(view, phase="output", draft=draft.text), off, calls, draft)
            if view.draft != draft.text:
                draft = replace(draft, text=view.draft or "", message="edited by an output layer", seconds=0, cost=0)
        on = tuple(p.name for p in self.stack.layers if p.barrier and p.name not in off)
        draft = draft if self.stack.streaming else replace(draft, ends=())
        return _Cell(on, draft, tuple(await asyncio.gather(*calls)))

    async def _through(
        self, phase: Phase, view: View, off: frozenset[str], calls: list[Pending], draft: Draft | None = None
    ) -> View:
        """Asks every layer of a phase; returns what the enforced modifiers make of the view."""
        acting = self.stack.acting(phase, off)
        streamed = draft is not None and self.stack.streams(off)
        for placed in acting:
            if streamed and draft is not None:
                calls.append(asyncio.ensure_future(self._streamed(placed, view, draft.ends)))
            else:
                calls.append(asyncio.ensure_future(self._whole(placed, view)))
            if placed.barrier:
                view = edited(await self._ask(placed, view), view)
        return view

    async def _whole(self, placed: Placed, view: View) -> tuple[Key, Call]:
        cut_at = 0 if view.draft is not None else None
        answer = await self._ask(placed, view)
        return (placed.name, answer.input_sha256), _call(placed, [(cut_at, answer)])

    async def _streamed(self, placed: Placed, view: View, ends: tuple[int, ...]) -> tuple[Key, Call]:
        """All the looks at a draft as it grows: each flags what it sees, after what the look before had cleared."""
        looks = positions(ends, self.stack.look_every)
        views: list[View] = []
        for n in looks:
            views.append(view.grown(view.text[: ends[n - 1]], views[-1] if views else None))
        views.append(view)
        answers = await asyncio.gather(*(self._ask(placed, view) for view in views))
        key = (placed.name, answers[-1].input_sha256, tuple(looks), tuple(ends[n - 1] for n in looks))
        return key, _call(placed, list(zip([0, *looks], answers, strict=True)))

    def _ask(self, placed: Placed, view: View) -> asyncio.Task[Answer]:
        seen = self._digest(narrowed(view, placed.info.scope.max_chars))
        key = (placed.name, placed.info.version, seen)
        if key not in self.asked:
            self.asked[key] = asyncio.ensure_future(self._answer(placed, view, key, seen))
        return self.asked[key]

    def _digest(self, view: View) -> str:
        """Computed once for what many layers see in many cells."""
        key = (view.phase, view.messages, view.draft, view.final, view.earlier)
        if key not in self.digests:
            self.digests[key] = view.digest
        return self.digests[key]

    async def _answer(self, placed: Placed, view: View, key: Key, seen: str) -> Answer:
        if placed.info.stateful:
            return await check(placed, view, clock=self.clock, input_sha256=seen)
        ask = partial(check, placed, view, clock=self.clock, input_sha256=seen)
        return await self.memo.get(key, ask, keep=sound)

    def _draft(self, off: frozenset[str], messages: Conversation) -> asyncio.Task[Draft]:
        client = self.stack.client(off)
        key: Key = (client.version, digest(messages))
        if key not in self.drafts:
            making = draft_of(client, messages, self.sampling, self.clock, self.memo)
            self.drafts[key] = asyncio.ensure_future(making)
        return self.drafts[key]


def _call(placed: Placed, looks: Sequence[tuple[int | None, Answer]]) -> Call:
    """One call out of the looks at a growing draft, `(tokens cleared before it, answer)` in order: the first that
    flags decides; the score is the highest of all, which is what a moved threshold would have met."""
    cut_at, answer = next((look for look in looks if blocks(look[1])), (None, _loudest(looks)))
    last = looks[-1][1]
    call = Call(
        layer=placed.name,
        phase=answer.phase,
        input_sha256=last.input_sha256,
        action=None,
        on_error=placed.on_error,
        cut_at=cut_at,
        seconds=sum(look.seconds for _, look in looks),
        cost=sum(look.verdict.cost for _, look in looks if not isinstance(look, LayerError)),
    )
    if isinstance(answer, LayerError):
        return replace(call, fault=answer.fault, reason=answer.message)
    verdict = answer.verdict
    return replace(call, action=verdict.action, score=_highest(looks), hazard=verdict.hazard, reason=verdict.reason)


def _loudest(looks: Sequence[tuple[int | None, Answer]]) -> Answer:
    """When nothing flags: a fault if there was one, else the highest score, else the last look."""
    answers = [answer for _, answer in looks]
    return max(reversed(answers), key=lambda a: 2.0 if isinstance(a, LayerError) else a.verdict.score or 0.0)


def _highest(looks: Sequence[tuple[int | None, Answer]]) -> float | None:
    scores = [a.verdict.score for _, a in looks if not isinstance(a, LayerError) and a.verdict.score is not None]
    return max(scores, default=None)


def _grid(cells: Sequence[_Cell]) -> Grid:
    """Numbers distinct drafts and calls in the order in which the cells meet them."""
    drafts: dict[tuple[str, str, str], int] = {}
    calls: dict[Key, int] = {}
    rows: list[Cell] = []
    values: list[Draft] = []
    answers: list[Call] = []
    for cell in cells:
        draft_key = (cell.draft.version, cell.draft.input_sha256, cell.draft.text)
        if draft_key not in drafts:
            values.append(cell.draft)
        draft = drafts.setdefault(draft_key, len(drafts))
        for key, call in cell.calls:
            if key not in calls:
                answers.append(call)
            calls.setdefault(key, len(calls))
        rows.append(Cell(on=cell.on, draft=draft, calls=tuple(calls[key] for key, _ in cell.calls)))
    return Grid(drafts=tuple(values), calls=tuple(answers), cells=tuple(rows))
