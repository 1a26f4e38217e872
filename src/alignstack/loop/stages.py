"""The requests of an audit asked again of every stage of the model's lineage, behind the same layers and judges.

Each stage takes the model's place in the stack; prompts, seeds, template and policy stay. A stage's replay is a run of
its own in a folder under the audit's, so a replay that was killed goes on, a finished one is not repeated, and
`alignstack attribute` and `why` read it. What the audit knows already (drafts of the same weights, opinions of the
judges) is not asked again.
"""

import json
import re
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alignstack.attribution.stages import StageAttribution, attribute_stages, fails, from_records
from alignstack.core.errors import DataError, NotFound, Unavailable
from alignstack.core.grid import Draft, Manifest, Record
from alignstack.core.judge import Opinion
from alignstack.core.messages import Conversation, digest, user
from alignstack.core.ports import Clock, ModelClient, Sampling
from alignstack.engine import registry
from alignstack.engine.config import load_stack
from alignstack.engine.memo import Memo
from alignstack.engine.stack import WEIGHTS, Stack
from alignstack.models import embedded
from alignstack.redteam import audit, suites
from alignstack.redteam.plan import Attempt, plan, sampling_seed
from alignstack.store.runs import Run
from alignstack.training import lineage

FOLDER = "stages"
"""Under the run's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One stage of a lineage."""

    name: str
    """Unique among its lineage; without a file that says it, the beginning of the weights' hash."""
    method: str
    """Empty where nothing says it."""
    weights: str
    """SHA-256."""
    place: Path | None
    """A checkpoint folder or an exported `.onnx` file; None: the weights are nowhere to be found."""
    record: lineage.Stage | None = None
    """What the checkpoint folder says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A replay over the stages, and what it was made from."""

    run: Run
    stack: Stack
    members: tuple[Member, ...]
    """Those that were asked, oldest first."""
    missing: tuple[Member, ...]
    """Those that have no file that could be run."""
    attempts: tuple[Attempt, ...]
    records: Mapping[str, Sequence[Record]]
    """By stage, parallel to `attempts`."""
    attribution: StageAttribution
    notes: tuple[str, ...]


async def replay(
    folder: Path,
    *,
    clock: Clock,
    checkpoint: Path | None = None,
    only: Sequence[str] = (),
    limit: int | None = None,
    suite_files: Sequence[Path] = (),
    concurrency: int | None = None,
    progress: audit.Progress = lambda done, total: None,
) -> Replayed:
    """`folder`: of the audit. `checkpoint`: the folder of the model's checkpoint, where its stack does not say it.
    `only`: names of stages; all otherwise. `limit`: so many harmful and benign requests, and every failure besides.
    `suite_files`: where conversations of several turns stand, of which a run keeps the last only.

    Raises DataError when the model's stages cannot be found, NotFound for a stage that there is not, Unavailable when
    a model or judge does not answer.
    """
    run = Run(folder)
    stack = load_stack(run.manifest.stack_source)
    found = narrowed(members(stack, checkpoint), only)
    runnable = [member for member in found if member.place is not None]
    if not runnable:
        raise DataError(f"no stage of {stack.model.name!r} can be run: no file has the weights that its lineage names")
    records = _chosen(run.records(), limit, stack)
    attempts, lost = _attempts(run.manifest, records, suite_files)
    known = await _known(run.manifest, stack, records)
    clients = {member.name: client(stack, member, run.folder / FOLDER) for member in runnable}
    made: dict[str, list[Record]] = {}
    for k, member in enumerate(runnable):
        made[member.name] = await _stage(
            run, with_model(stack, clients[member.name]), member, attempts, records, known,
            clock=clock, concurrency=concurrency,
            progress=lambda done, total, k=k: progress(k * total + done, len(runnable) * total),  # type: ignore[misc]
        )  # fmt: skip
    asked = {attempt.id for attempt in attempts}
    kept = [record for record in records if record.id in asked]
    replays = from_records(list(made), list(made.values()), kept, stack.enforced)
    return Replayed(
        run=run,
        stack=stack,
        members=tuple(runnable),
        missing=tuple(member for member in found if member.place is None),
        attempts=tuple(attempts),
        records=made,
        attribution=attribute_stages(replays),
        notes=(
            *_notes(run.manifest, stack, lost),
            *_last_differs(stack, kept, list(made.values())[-1]),
            *own_judges(stack, clients),
        ),
    )


# ---------------------------------------------------------------- the lineage


def members(stack: Stack, checkpoint: Path | None = None) -> list[Member]:
    """The stages of the stack's model, oldest first, those without a file included. Raises DataError."""
    place = checkpoint or _place(stack)
    return _distinct(_of_file(place) if place.suffix == ".onnx" else _of_folder(place))


def narrowed(found: Sequence[Member], names: Sequence[str]) -> list[Member]:
    """Those named, by name or by the beginning of their weights' hash, in the order of the lineage."""
    for name in names:
        if not any(_is(member, name) for member in found):
            raise NotFound("stage", name, [member.name for member in found])
    return [member for member in found if not names or any(_is(member, name) for name in names)]


def _is(member: Member, name: str) -> bool:
    return name == member.name or (len(name) >= 8 and member.weights.startswith(name))


def _place(stack: Stack) -> Path:
    """Where the model's weights lie: its own `checkpoint` key, which starts at the stack file's folder."""
    config = getattr(stack.model, "config", None)
    named = getattr(config, "checkpoint", None)
    if named is None:
        raise DataError(
            f"the stack's model, {stack.model.name!r}, does not say which weights it runs; give `--checkpoint FOLDER`"
        )
    if isinstance(stack.model, embedded.Embedded) and named in embedded.SHIPPED:
        return embedded.ASSETS / f"{named}.onnx"
    return (Path(stack.source).parent / Path(named).expanduser()).resolve()


def _of_file(file: Path) -> list[Member]:
    """By the hashes that an exported file names, among the exports beside it and those that ship."""
    try:
        wanted = [str(weights) for weights in json.loads(facts(file)["lineage"])]
    except (ValueError, TypeError, KeyError):
        wanted = []
    if not wanted:
        raise DataError(f"{str(file)!r} names no lineage; export it again, or give `--checkpoint FOLDER`")
    exports = _exports([file, *sorted(file.parent.glob("*.onnx"))])
    return [exports.get(weights) or _missing(weights) for weights in wanted]


def _exports(files: Sequence[Path]) -> dict[str, Member]:
    """By weights; the first of several. Files that are no exports are passed over."""
    found: dict[str, Member] = {}
    for file in [*files, *sorted(embedded.ASSETS.glob("*.onnx"))]:
        try:
            about = facts(file)
        except DataError:
            continue
        weights, name = about.get("weights", ""), about.get("stage", file.stem)
        found.setdefault(weights, Member(name=name, method=about.get("method", ""), weights=weights, place=file))
    return found


def facts(file: Path) -> dict[str, str]:
    """What `alignstack.training.export` wrote into the file: stage, weights, lineage … Raises DataError."""
    return dict(embedded.load(file).session.get_modelmeta().custom_metadata_map)


def _of_folder(checkpoint: Path) -> list[Member]:
    found = lineage.folders(checkpoint)
    before = lineage.weights(checkpoint)[: -len(found)]
    exports = _exports([]) if before else {}
    return [
        *(exports.get(weights) or _missing(weights) for weights in before),
        *(
            Member(name=stage.stage, method=stage.method, weights=stage.weights, place=place.resolve(), record=stage)
            for stage, place in found
        ),
    ]


def _missing(weights: str) -> Member:
    return Member(name=weights[:12], method="", weights=weights, place=None)


def _distinct(found: Sequence[Member]) -> list[Member]:
    """Two stages may have one name."""
    times = Counter(member.name for member in found)
    return [
        replace(member, name=f"{member.name}@{member.weights[:8]}") if times[member.name] > 1 else member
        for member in found
    ]


# ---------------------------------------------------------------- a stage in the model's place


def client(stack: Stack, member: Member, work: Path) -> ModelClient:
    """The stage as the stack's own kind of model, with its settings; of a stack that reaches its model over a network,
    as `transformers`. A checkpoint that has to be exported (or unpacked) first is, into `work`."""
    own: Any = stack.model
    if isinstance(own, embedded.Embedded):
        return _client(stack, embedded.Embedded, own.config, checkpoint=onnx_file(member, work))
    place = checkpoint_folder(member, work)
    config = getattr(own, "config", None)
    if hasattr(config, "checkpoint"):
        adapter = {"adapter": None} if hasattr(config, "adapter") else {}  # a stage's folder holds it already
        return _client(stack, type(own), config, checkpoint=place, **adapter)
    kind: Any = registry.find("models", "transformers").loaded
    if kind is None:
        raise DataError("running a checkpoint needs the `local` extra: pip install 'alignstack[local]'")
    return _client(stack, kind, kind.Config(checkpoint="."), checkpoint=place)


def _client(stack: Stack, kind: Any, config: Any, *, checkpoint: Path, **changes: Any) -> ModelClient:
    """Other paths of its configuration start where they did."""
    changed = config.model_copy(update={"checkpoint": str(checkpoint.resolve()), **changes})
    made: ModelClient = kind(changed, base=Path(stack.source).parent)
    return made


def onnx_file(member: Member, work: Path) -> Path:
    """The stage for the embedded runtime, exported once."""
    place = _there(member)
    if place.suffix == ".onnx":
        return place
    _needs_train()
    from alignstack.training import export

    out = work / "onnx" / member.weights[:12]
    made = sorted(out.glob("*.onnx")) if (out / "whole").is_file() else []
    if not made:
        made = [export.run(place, out)]
        (out / "whole").touch()  # a file that was cut off in the middle is not taken for one
    return made[0]


def checkpoint_folder(member: Member, work: Path) -> Path:
    """The stage as a Hugging Face folder, unpacked once."""
    place = _there(member)
    if place.suffix != ".onnx":
        return place
    _needs_train()
    from alignstack.training import unpack

    out = work / "unpacked" / member.weights[:12]
    return out if (out / lineage.FILE).is_file() else unpack.unpack(place, out)


def _needs_train() -> None:
    missing = [name for name in ("torch", "transformers", "onnx") if find_spec(name) is None]
    if missing:
        raise DataError(f"{', '.join(missing)} not installed; turning a checkpoint into another form needs them: "
                        "pip install 'alignstack[train]'")  # fmt: skip


def _there(member: Member) -> Path:
    if member.place is None:
        raise DataError(f"no file has the weights of stage {member.name!r} ({member.weights[:12]})")
    return member.place


def with_model(stack: Stack, model: ModelClient) -> Stack:
    """The same deployment round other weights, which cannot be switched off."""
    layers = tuple(
        replace(placed, info=replace(placed.info, version=model.version)) if placed.name == WEIGHTS else placed
        for placed in stack.layers
    )
    config = getattr(model, "config", None)
    written = config.model_dump(exclude_none=True) if config is not None else {"use": model.name}
    return replace(
        stack,
        layers=layers,
        model=model,
        reference=None,
        fingerprint=digest(stack.fingerprint, model.version),
        config={**stack.config, "model": written},
    )


async def _stage(
    run: Run,
    stack: Stack,
    member: Member,
    attempts: Sequence[Attempt],
    records: Sequence[Record],
    known: tuple[Memo, Memo],
    *,
    clock: Clock,
    concurrency: int | None,
    progress: audit.Progress,
) -> list[Record]:
    """The stage's answers to `attempts`, in their order."""
    about = run.manifest
    made = audit.manifest(
        stack, about.suites, about.attacks, draws=about.draws, seed=about.seed, items=about.items
    )  # fmt: skip
    kept = _opened(run.folder / FOLDER / f"{re.sub(r'[^A-Za-z0-9._@-]', '_', member.name)}-{made.run[:8]}", made, run)
    memo, opinions = known
    try:
        await audit.replay(
            stack, attempts, kept, clock=clock, memo=memo, opinions=opinions, concurrency=concurrency, progress=progress
        )
    except Unavailable as error:
        raise Unavailable(f"stage {member.name!r}: {error}") from None
    answers = {record.id: record for record in kept.records()}
    people = {record.id: record for record in records}
    return [_labelled(answers[attempt.id], people[attempt.id]) for attempt in attempts]


def _opened(folder: Path, made: Manifest, run: Run) -> Run:
    """Whatever is asked now, items stand in the order of the audit."""
    return Run(folder) if Run.exists(folder) else Run.create(folder, made, [record.id for record in run.records()])


def _labelled(answer: Record, record: Record) -> Record:
    """A person's label of the audited answer holds for the same words from another stage."""
    same = record.human is not None and _delivered(answer).text == _delivered(record).text
    return replace(answer, human=record.human) if same else answer


def _delivered(record: Record) -> Draft:
    return record.grid.drafts[max(record.grid.cells, key=lambda cell: len(cell.on)).draft]


# ---------------------------------------------------------------- what is asked


def _chosen(records: Sequence[Record], limit: int | None, stack: Stack) -> list[Record]:
    """The first `limit` of each label and every failure, in the order of the run. Raises DataError."""
    if not records:
        raise DataError("the run has no finished items; `alignstack audit --resume` goes on with it")
    left = Counter({"harmful": limit or len(records), "benign": limit or len(records)})
    kept = []
    for record in records:
        left[record.label] -= 1
        if left[record.label] >= 0 or fails(record, stack.enforced):
            kept.append(record)
    return kept


def _attempts(about: Manifest, records: Sequence[Record], files: Sequence[Path]) -> tuple[list[Attempt], list[Record]]:
    """The attempts behind the records; second, records whose conversation had further turns that nobody knows."""
    attacks = [name for name in about.attacks if name != "none"]
    known = plan(suites.read_all(files), attacks, seed=about.seed, draws=about.draws) if files else []
    conversations = {attempt.id: attempt.item.messages for attempt in known}
    made, lost = [], []
    for record in records:
        candidates = (user(record.text), conversations.get(record.id, ()))
        asked = next((messages for messages in candidates if digest(messages) == _sent(record)), None)
        if asked is None:
            lost.append(record)
        else:
            made.append(_attempt(record, asked, about.seed))
    if not made:
        raise DataError(
            "every request of the run has several turns, of which it keeps the last; `--suite FILE` has all"
        )
    return made, lost


def _sent(record: Record) -> str:
    """Digest of the conversation before any modifier changed it."""
    return record.grid.drafts[min(record.grid.cells, key=lambda cell: len(cell.on)).draft].input_sha256


def _attempt(record: Record, messages: Conversation, seed: int) -> Attempt:
    item = suites.Item(
        id=record.id,
        messages=messages,
        label=record.label,
        hazard=record.hazard,
        cluster=record.cluster,
        attack=record.attack,
        plain=record.plain,
    )
    return Attempt(id=record.id, item=item, draw=record.draw, seed=sampling_seed(seed, record.id))


async def _known(about: Manifest, stack: Stack, records: Sequence[Record]) -> tuple[Memo, Memo]:
    """Drafts and opinions of the audit, if it was of this very stack."""
    drafts, opinions = Memo(limit=None), Memo(limit=None)
    for record in records if about.stack == stack.fingerprint else ():
        sampling = replace(stack.sampling, seed=sampling_seed(about.seed, record.id))
        for draft, judgement in zip(record.grid.drafts, record.judgements, strict=True):
            if draft.finish != "unavailable" and not draft.message:  # edited ones are not the model's words
                await drafts.get(_draft_key(draft, sampling), _already(draft))
            for judge in stack.judges:
                key = audit.opinion_key(judge, record.plain, draft.text)
                if draft.finish != "unavailable" and judge.name in judgement.opinions:
                    await opinions.get(key, _already(judgement.opinions[judge.name]))
    return drafts, opinions


def _draft_key(draft: Draft, sampling: Sampling) -> tuple[str, str, Sampling]:
    """As `alignstack.engine.generate.draft_of` has it."""
    return draft.version, draft.input_sha256, sampling


def _already(value: Any) -> Any:
    async def make() -> Draft | Opinion:
        return value  # type: ignore[no-any-return]

    def made() -> Coroutine[Any, Any, Draft | Opinion]:
        return make()

    return made


# ---------------------------------------------------------------- what to know about it


def _notes(about: Manifest, stack: Stack, lost: Sequence[Record]) -> list[str]:
    notes = []
    if about.stack != stack.fingerprint:
        notes.append(f"{stack.source} has changed since the audit; this is about the stack as it is now")
    if lost:
        notes.append(
            f"left out: {len(lost)} requests of several turns, of which the run keeps the last; `--suite FILE` has all"
        )
    return notes


def _last_differs(stack: Stack, run: Sequence[Record], last: Sequence[Record]) -> list[str]:
    """The last stage should be the audited model."""
    n = sum(fails(a, stack.enforced) != fails(b, stack.enforced) for a, b in zip(run, last, strict=True))
    if not n:
        return []
    return [f"the last stage ends {n} of {len(run)} requests otherwise than the audited model did: are they the same?"]


def own_judges(stack: Stack, clients: Mapping[str, ModelClient]) -> list[str]:
    """A judge must not be what it judges."""
    return [
        f"judge {judge.name!r} judges with the model of stage {name!r}: what it says of that stage is worth nothing"
        for judge in stack.judges
        for name, model in clients.items()
        if getattr(judge, "model_version", None) == model.version
    ]


def described(member: Member) -> dict[str, Any]:
    """For the report: `name`, `method`, `weights`, `measured`."""
    measured = dict(member.record.measured) if member.record else {}
    return {"name": member.name, "method": member.method, "weights": member.weights, "measured": measured}
