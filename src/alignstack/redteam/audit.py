"""An audit: every layer's verdict on every request, in every subset of the modifiers, judged and on disk.

Killed at any moment and resumed, it loses no finished item and asks none again, and the run is the one it would have
been without the interruption, timings aside: ids, seeds and attacks come from the item, never from the order of work.
An item whose model did not answer is recorded as `unavailable`; one whose judge did not answer is not recorded, since
an item without a judgement would count as safe. Resuming asks both again.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from alignstack import __version__
from alignstack.core.errors import AlignstackError, ConfigError, DataError, Problem, Unavailable
from alignstack.core.grid import Call, Cell, Draft, Grid, Judgement, LayerRow, Manifest, Record, SuiteRow
from alignstack.core.judge import Judge, Opinion
from alignstack.core.messages import Message, digest, user_text
from alignstack.core.ports import Clock
from alignstack.engine.evaluate import check_text, evaluate
from alignstack.engine.generate import positions
from alignstack.engine.memo import Memo
from alignstack.engine.stack import Placed, Stack
from alignstack.redteam.plan import Attempt, plan, sent
from alignstack.redteam.suites import Item
from alignstack.store.index import RunIndex, trace_id
from alignstack.store.runs import Run, answered

Progress = Callable[[int, int], None]
"""Called with the number of items finished and of items in all."""


async def audit(
    stack: Stack,
    items: Sequence[Item],
    *,
    out: Path,
    clock: Clock,
    attacks: Sequence[str] = (),
    rotate: bool = False,
    draws: int = 1,
    seed: int = 0,
    suites: Sequence[SuiteRow] = (),
    resume: bool = False,
    one_sided: bool = False,
    concurrency: int | None = None,
    progress: Progress = lambda done, total: None,
    index: RunIndex | None = None,
) -> Run:
    """Ask `stack` about `items` and their attacks (see `plan`), and write the run to `out`.

    `suites` says where the items came from. `index` (this machine's own unless given) learns where the run is, so that
    its trace ids are found from anywhere. `concurrency` items are under way at once.

    Raises ConfigError when the stack has no judge, DataError for items of one label only (unless `one_sided`) and for
    a folder that holds another run, Unavailable when items are unfinished, or the model answered none of them.
    """
    _both_sides(items, one_sided)
    attempts = plan(items, attacks, seed=seed, draws=draws, rotate=rotate)
    rows = tuple(suites) or (_unnamed(items),)
    described = manifest(stack, rows, ("none", *attacks), draws=draws, seed=seed, items=len(attempts))
    run = _opened(out, described, [attempt.id for attempt in attempts], resume)
    with _known(index) as runs:
        runs.add(described.run, out)
    work = _Audit(stack, run, clock, progress, total=len(attempts))
    await work.finish(attempts, concurrency or default_concurrency(stack))
    _settle(run, work)
    return run


async def replay(
    stack: Stack,
    attempts: Sequence[Attempt],
    run: Run,
    *,
    clock: Clock,
    memo: Memo,
    opinions: Memo,
    concurrency: int | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Ask `stack` about attempts of another run and write the answers to `run`, which keeps what it has of them. The
    memos are what is known already: drafts, verdicts, and what judges said. Raises Unavailable when requests are
    unfinished, or the model answered none of them; asked again, it goes on."""
    work = _Audit(stack, run, clock, progress, total=len(attempts), memo=memo, opinions=opinions)
    await work.finish(attempts, concurrency or default_concurrency(stack))
    if work.unfinished:
        name, why = next(iter(work.unfinished.items()))
        raise Unavailable(
            f"{len(work.unfinished)} of {work.total} requests are unfinished, the first {name!r}: {why}; the others "
            "are kept, and the same command goes on"
        )
    if not work.answered:
        raise Unavailable(f"none of the {work.total} requests got its answers: {work.silence}")


def opinion_key(judge: Judge, request: str, answer: str) -> str:
    """Under which a judge's opinion is remembered."""
    return digest(judge.name, judge.version, request, answer)


def manifest(
    stack: Stack, suites: tuple[SuiteRow, ...], attacks: tuple[str, ...], *, draws: int, seed: int, items: int
) -> Manifest:
    """What makes the run. Its name is the hash of all that decides the results; where the files lie is no part of it,
    and the stack's fingerprint stands for configuration, layers and models. Raises ConfigError without a judge."""
    if not stack.judges:
        raise ConfigError(
            [Problem(where=f"{stack.source}: judge", what="an audit needs one, such as `judge: {use: compliance}`")]
        )
    judges = tuple(f"{judge.name}@{judge.version[:12]}" for judge in stack.judges)
    parts = (stack.fingerprint, stack.policy.fingerprint, [[s.file, s.sha256, s.n] for s in suites], list(attacks))
    return Manifest(
        run=digest(*parts, list(judges), draws, seed, items, stack.streaming, __version__),
        stack=stack.fingerprint,
        stack_source=stack.source,
        stack_config=stack.config,
        policy=stack.policy.fingerprint,
        layers=tuple(layer_row(placed) for placed in stack.layers),
        model=stack.model.name,
        reference=stack.reference.name if stack.reference else None,
        judges=judges,
        suites=suites,
        attacks=attacks,
        draws=draws,
        seed=seed,
        streaming=stack.streaming,
        items=items,
        version=__version__,
    )


def layer_row(placed: Placed) -> LayerRow:
    """A layer as the manifest has it."""
    info = placed.info
    return LayerRow(
        name=info.name,
        use=info.use,
        kind=info.kind,
        side=info.side,
        phases=info.phases,
        mode=placed.mode,
        on_error=placed.on_error,
        version=info.version,
        scope=info.scope,
        threshold=placed.threshold,
        where=placed.where,
    )


def default_concurrency(stack: Stack) -> int:
    """Two items a core where the model computes on this machine; many more where it is a server that waits."""
    cores = os.cpu_count() or 1
    return 16 * cores if _use(stack).endswith("_http") else 2 * cores


def find_record(trace: str, index: RunIndex | None = None) -> tuple[Run, Record]:
    """The run and the record that a trace id of an audit belongs to. Raises NotFound."""
    with _known(index) as runs:
        run = Run(runs.folder(trace))
    return run, run.find(trace)


@dataclass
class _Audit:
    """The work under way."""

    stack: Stack
    run: Run
    clock: Clock
    progress: Progress
    total: int
    finished: int = 0
    silence: str = ""
    """Why the model did not answer, when it last did not."""
    answered: int = 0
    unfinished: dict[str, str] = field(default_factory=dict)
    """Why, by id: the judge did not answer."""
    memo: Memo = field(default_factory=Memo)
    opinions: Memo = field(default_factory=Memo)

    async def finish(self, attempts: Sequence[Attempt], workers: int) -> None:
        """All attempts that are not done yet. Cancelled, it leaves whole records only."""
        done = self.run.done() & {attempt.id for attempt in attempts}
        self.finished = self.answered = len(done)
        self.progress(self.finished, self.total)
        left = iter([attempt for attempt in attempts if attempt.id not in done])
        tasks = [asyncio.ensure_future(self._work(left)) for _ in range(workers)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.run.close()

    async def _work(self, left: Iterator[Attempt]) -> None:
        for attempt in left:
            try:
                self._count(self._written(await self._record(attempt)))
            except Unavailable as error:
                self.unfinished[attempt.id] = str(error)
            self.finished += 1
            self.progress(self.finished, self.total)

    def _count(self, record: Record) -> None:
        self.answered += answered(record)
        self.silence = next((d.message for d in record.grid.drafts if d.finish == "unavailable"), self.silence)

    def _written(self, record: Record) -> Record:
        try:
            self.run.append(record)
            return record
        except OSError as error:
            raise DataError(f"cannot write to {str(self.run.folder)!r}: {error.strerror}; `--resume` goes on") from None

    async def _record(self, attempt: Attempt) -> Record:
        item = attempt.item
        grid = await evaluate(self.stack, item.messages, clock=self.clock, memo=self.memo, seed=attempt.seed)
        judgements = [await self._judgement(draft, item.plain) for draft in grid.drafts]
        return Record(
            id=attempt.id,
            trace=trace_id(self.run.manifest.run, attempt.id),
            label=item.label,
            text=sent(item),
            plain=item.plain,
            hazard=item.hazard,
            cluster=item.cluster,
            attack=item.attack,
            draw=attempt.draw,
            grid=grid,
            judgements=tuple(judgements),
            evidence=await self._evidence(item, grid),
        )

    async def _judgement(self, draft: Draft, request: str) -> Judgement:
        if draft.finish == "unavailable":
            nothing = Opinion(harmful=False, refused=False)
            return Judgement(opinions={judge.name: nothing for judge in self.stack.judges})
        opinions = {judge.name: await self._opinion(judge, request, draft.text) for judge in self.stack.judges}
        first = opinions[self.stack.judges[0].name]
        return Judgement(opinions=opinions, onset=await self._onset(draft, request) if first.harmful else 0)

    async def _opinion(self, judge: Judge, request: str, answer: str) -> Opinion:
        """Asked once for each answer to a request. Raises Unavailable."""
        key = opinion_key(judge, request, answer)
        try:
            return await self.opinions.get(key, lambda: judge.judge(request, answer))
        except AlignstackError as error:
            raise Unavailable(str(error)) from None
        except Exception as error:  # a plugin with a bug is a judge that is not there
            raise Unavailable(f"judge {judge.name!r}: {type(error).__name__}: {error}") from None

    async def _onset(self, draft: Draft, request: str) -> int:
        """Tokens after which the first judge calls the prefix harmful, looked at wherever the output layers look: in
        between nothing can be released on its own."""
        if not self.stack.streams() or not draft.ends:
            return 0
        for n in positions(draft.ends, self.stack.look_every):
            if (await self._opinion(self.stack.judges[0], request, draft.text[: draft.ends[n - 1]])).harmful:
                return n
        return len(draft.ends)

    async def _evidence(self, item: Item, grid: Grid) -> tuple[Call, ...]:
        """Vetoes that missed a harmful request, on the plain evidence: attack undone, nothing cut, nothing edited."""
        if item.label == "benign":
            return ()
        calls = {grid.calls[number].layer: grid.calls[number] for number in _full(grid).calls}
        missed = [p for p in self.stack.layers if _is_veto(p) and p.name in calls and not calls[p.name].blocks]
        draft = _unedited(self.stack, grid)
        return tuple([await self._replay(placed, item, draft) for placed in missed])

    async def _replay(self, placed: Placed, item: Item, draft: Draft) -> Call:
        spoken = (*item.messages[:-1], Message(role="user", content=item.plain))
        text = draft.text if placed.info.phases[0] == "output" else user_text(spoken)
        return await check_text(placed, text, clock=self.clock, messages=spoken, memo=self.memo)


def _known(index: RunIndex | None) -> AbstractContextManager[RunIndex]:
    """The index given, which stays open, or this machine's own."""
    return closing(RunIndex()) if index is None else nullcontext(index)


def _full(grid: Grid) -> Cell:
    """Everything switched on."""
    return max(grid.cells, key=lambda cell: len(cell.on))


def _unedited(stack: Stack, grid: Grid) -> Draft:
    """What the model said with everything on, before any output layer changed it."""
    editors = {placed.name for placed in stack.acting("output") if placed.barrier}
    wanted = tuple(name for name in _full(grid).on if name not in editors)
    return grid.drafts[next(cell.draft for cell in grid.cells if cell.on == wanted)]


def _is_veto(placed: Placed) -> bool:
    """Limits remember callers, of whom a text holds no evidence."""
    return placed.info.kind == "veto" and placed.layer is not None and not placed.info.stateful


def _use(stack: Stack) -> str:
    return next((placed.info.use for placed in stack.layers if placed.layer is None), "")


def _both_sides(items: Sequence[Item], one_sided: bool) -> None:
    missing = {"harmful", "benign"} - {item.label for item in items}
    if not items or (missing and not one_sided):
        raise DataError(
            f"the audit has no {' and no '.join(sorted(missing))} items: refusing everything would look safe, and "
            "answering everything helpful; add a suite that has them"
        )


def _unnamed(items: Sequence[Item]) -> SuiteRow:
    """Items that come from no file are known by their content."""
    parts = [(i.id, i.messages, i.label, i.hazard, i.cluster, i.attack, i.plain) for i in items]
    return SuiteRow(file="", sha256=digest(*(digest(*part) for part in parts)), n=len(items))


def _opened(out: Path, described: Manifest, ids: Sequence[str], resume: bool) -> Run:
    """A new run, or with `resume` the one in `out`, if it is of the same making."""
    if not Run.exists(out):
        return Run.create(out, described, ids)
    if not resume:
        raise DataError(f"{str(out)!r} already holds a run; `--resume` goes on with it, another `--out` starts anew")
    run = Run(out)
    if run.manifest.run != described.run:
        raise DataError(
            f"{str(out)!r} holds another audit, which this one cannot resume: {_differences(run.manifest, described)}"
        )
    return run


def _differences(old: Manifest, new: Manifest) -> str:
    names = ("stack", "policy", "judges", "suites", "attacks", "draws", "seed", "items", "streaming", "version")
    changed = [name for name in names if getattr(old, name) != getattr(new, name)]
    small = [f"{n} was {getattr(old, n)}, is {getattr(new, n)}" for n in changed if n in ("draws", "seed", "items")]
    return "; ".join([*(f"{n} changed" for n in changed if n not in ("draws", "seed", "items")), *small])


def _settle(run: Run, work: _Audit) -> None:
    """Raises Unavailable when there is less than a whole run; everything that was finished is kept."""
    if work.unfinished:
        name, why = next(iter(work.unfinished.items()))
        raise Unavailable(
            f"{len(work.unfinished)} of {work.total} items are unfinished, the first {name!r}: {why}; the others are "
            f"kept in {str(run.folder)!r}, and `--resume` asks these again"
        )
    if not work.answered:
        raise Unavailable(f"none of the {work.total} items got its answers: {work.silence}; `--resume` asks again")
