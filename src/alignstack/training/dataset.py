"""The rows that a method trains on: files of any known format, read, checked, answered, mixed and described.

A source says where its answers come from: its own (`own`), the policy's refusal for the row's hazard (`refuse`), or
what the parent checkpoint itself says to the request (`parent`). Rows that repeat others, and rows that an audit will
ask, are left out; every row that is left out is counted by reason in the manifest.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from alignstack.core.errors import ConfigError, DataError, Problem, complain
from alignstack.policy import Policy
from alignstack.policy.render import refusal, system_prompt
from alignstack.training import corpus, formats, trainer
from alignstack.training.duplicates import HeldOut, repeated
from alignstack.training.formats import Example, Kind, Skip, Turn, Wrong
from alignstack.training.lineage import read as read_lineage
from alignstack.training.lineage import sha256
from alignstack.training.recipe import RecipePath, Strict
from alignstack.training.stage import Stage, find

Row = dict[str, Any]
Answer = Literal["own", "refuse", "parent"]
Manifest = dict[str, Any]

MANIFEST = "manifest.jsonl"
ANSWER_TOKENS = 96
"""Longest answer that the parent may give; one that does not end within it is dropped. Chosen by hand."""


class Source(Strict):
    """One part of the mixture; in a recipe a bare path stands for `files: [path]`."""

    files: list[RecipePath] = Field(min_length=1)
    """JSON Lines or a JSON array, plain, `.gz` or `.zst`."""
    format: Literal[
        "auto", "trl", "hh-rlhf", "ultrafeedback", "beavertails", "beavertails-helpful", "alpaca", "suite"
    ] = "auto"
    answer: Answer = "own"
    """For methods that learn from answers (`sft`): whose."""
    chosen: Answer | None = None
    """For methods that learn from preferences: whose answer is the better one; None: the row's own."""
    rejected: Answer | None = None
    """And whose is the worse one."""
    by: str | None = None
    """The checkpoint that gives the answers called `parent`: a folder or `embedded:NAME`; the stage's own parent if not
    set. A stage that starts from refusals may so be taught against what the model said before it refused."""
    label: Literal["harmful", "benign"] | None = None
    """Of all the requests, where rows do not say it."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Of the whole mixture, [0, 1]; the shares of all sources add up to 1. Rows are repeated or left out to get there.
    None: every row once."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows, drawn by the stage's seed."""
    system: float = Field(default=0.0, ge=0, le=1)
    """Share of the rows that carry the policy's brief system prompt; rows with a system turn of their own keep it."""
    licence: str | None = None
    """Where rows do not say it."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: Any) -> Any:
        return {"files": [data]} if isinstance(data, str | Path) else data

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, files: Any) -> Any:
        return [files] if isinstance(files, str | Path) else files


@dataclass(slots=True, kw_only=True)
class Draft:
    """A row whose answers may still be missing."""

    example: Example
    source: int
    file: int
    """Number of the file in the manifest."""
    origin: str
    good: Answer
    bad: Answer
    by: str | None = None
    """Who is meant by `parent`, as the source says."""

    @property
    def prompt(self) -> list[Turn]:
        return [dict(turn) for turn in self.example.prompt]

    @property
    def requests(self) -> list[str]:
        return [turn["content"] for turn in self.example.prompt if turn["role"] == "user"]


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of one file."""

    path: Path
    formats: set[str] = field(default_factory=set)
    read: int = 0
    used: int = 0
    """Rows that are trained on, repetitions counted once."""
    dropped: Counter[str] = field(default_factory=Counter)
    licences: set[str] = field(default_factory=set)
    sides: Counter[str] = field(default_factory=Counter)

    def entry(self) -> Row:
        """The file's line in the manifest."""
        return {
            "file": self.path.name,
            "sha256": sha256(self.path),
            "format": ", ".join(sorted(self.formats)),
            "read": self.read,
            "used": self.used,
            "dropped": dict(sorted(self.dropped.items())),
            "licences": sorted(self.licences),
            "sides": dict(sorted(self.sides.items())),
        }


def for_stage(stage: Stage, sources: Sequence[Source], kind: Kind, held_out: Sequence[Path] = ()) -> list[Row]:
    """The rows of a stage, in the order in which they are trained on. They depend on the files, the policy, the parent
    and the seed alone.

    `sft`: `messages`. `preference`: `prompt` (turns), `chosen` and `rejected` (one turn each), `margin` and
    `confidence` where known. `unpaired`: `prompt`, `completion`, `label` (True: to learn). `prompts`: `prompt`, `label`
    (`harmful` or `benign`), `hazard`. All: `origin` ("file.jsonl:12"), and `hazard` and `side` where known.

    Raises DataError with every bad line, ConfigError when sources do not fit the kind, and DataError when no row is
    left. `held_out` are suites; the demo's prompts are always held out.
    """
    files = [path for source in sources for path in source.files]
    kept = stage.kept()
    if kept is not None:
        stage.notes["data"] = read_manifest(stage.work)
        return stage.keep(kept, files)
    _check(sources, kind)
    tallies = [Tally(path=path) for path in files]
    drafts = list(_deduplicated(_drafts(sources, kind, tallies), tallies))
    drafts = list(_decontaminated(drafts, HeldOut(_prompts([*held_out, *demo()])), tallies))
    drafts = list(_allowed(drafts, stage.policy, tallies))
    rows = _rows(stage, sources, kind, drafts, tallies)
    if not rows:
        raise DataError(f"no row is left to train on: {_reasons(tallies)}")
    stage.notes["data"] = _write_manifest(stage.work / MANIFEST, kind, rows, tallies, held_out)
    return stage.keep(rows, files)


def demo() -> list[Path]:
    """The prompts of the demo's audit, which are never trained on."""
    folder = resources.files("alignstack") / "redteam" / "data"
    return sorted(Path(str(file)) for file in folder.iterdir() if file.name.startswith("demo_"))


def _reasons(tallies: Sequence[Tally]) -> str:
    total = sum((tally.dropped for tally in tallies), Counter[str]())
    return "; ".join(f"{n} {reason}" for reason, n in total.most_common()) or "the files are empty"


# ---------------------------------------------------------------- sources


def _check(sources: Sequence[Source], kind: Kind) -> None:
    """Sources that cannot mean anything for this kind, all at once."""
    found = [(i, what) for i, source in enumerate(sources) for what in _unfit(source, kind)]
    shares = [source.share for source in sources if source.share is not None]
    if shares and len(shares) < len(sources):
        found.append((next(i for i, s in enumerate(sources) if s.share is None), "has no `share`, but others have"))
    elif shares and not math.isclose(sum(shares), 1, abs_tol=1e-3):
        found.append((0, f"the shares of all sources add up to {sum(shares):g}, not to 1"))
    if found:
        raise ConfigError([Problem(where=f"data[{i}]", what=what) for i, what in found])


def _unfit(source: Source, kind: Kind) -> Iterator[str]:
    if kind != "sft" and source.answer != "own":
        yield f"`answer: {source.answer}` is for methods that learn from answers; here it is `chosen` and `rejected`"
    if kind not in ("preference", "unpaired") and (source.chosen or source.rejected):
        yield "`chosen` and `rejected` are for methods that learn from preferences" + (
            "; here it is `answer`" if kind == "sft" else ""
        )
    if source.chosen == source.rejected and source.chosen in ("refuse", "parent"):
        yield f"`chosen` and `rejected` are both `{source.chosen}`: nothing could be learnt"


# ---------------------------------------------------------------- reading


def _drafts(sources: Sequence[Source], kind: Kind, tallies: Sequence[Tally]) -> list[Draft]:
    """All rows of all files. Raises DataError with the bad lines of all of them."""
    problems: list[str] = []
    drafts: list[Draft] = []
    places = [(i, source, path) for i, source in enumerate(sources) for path in source.files]
    for n, (i, source, path) in enumerate(places):
        for line, example in _examples(path, source, kind, tallies[n], problems):
            drafts.append(_draft(example, source, kind, source_no=i, file=n, origin=f"{path.name}:{line}"))
    complain(problems)
    return drafts


def _draft(example: Example, source: Source, kind: Kind, *, source_no: int, file: int, origin: str) -> Draft:
    good, bad = (source.answer, "own") if kind == "sft" else (source.chosen or "own", source.rejected or "own")
    return Draft(example=example, source=source_no, file=file, origin=origin, good=good, bad=bad, by=source.by)  # type: ignore[arg-type]


def _examples(
    path: Path, source: Source, kind: Kind, tally: Tally, problems: list[str]
) -> Iterator[tuple[int, Example]]:
    for line, row in corpus.lines(path, problems):
        tally.read += 1
        name = ""
        try:
            name = formats.detect(row) if source.format == "auto" else source.format
            tally.formats.add(name)
            found = [_filled(example, source) for example in formats.FORMATS[name].examples(row, kind)]
            fitting = [example for example in found if _fits(example, source, kind)]
        except Wrong as wrong:
            problems.append(f"{path}:{line}: {wrong}" + (f" (read as {name!r})" if name else ""))
            continue
        except Skip as skip:
            tally.dropped[str(skip)] += 1
            continue
        tally.dropped["answer to avoid"] += 0 if fitting else 1
        yield from ((line, example) for example in fitting)
    tally.dropped = +tally.dropped


def _filled(example: Example, source: Source) -> Example:
    return replace(example, side=example.side or source.label, licence=example.licence or source.licence)


def _fits(example: Example, source: Source, kind: Kind) -> bool:
    """Has the row what the kind needs? False: it is an answer to avoid where answers are learnt. Raises Wrong."""
    good, bad = example.good is not None, example.bad is not None
    if kind == "sft" and source.answer == "own":
        if not good and not bad:
            raise Wrong("has no answer; say `answer: refuse` or `answer: parent` in the source, or give the row one")
        return good
    if kind == "preference":
        _need_side(good or source.chosen not in (None, "own"), "chosen")
        _need_side(bad or source.rejected not in (None, "own"), "rejected")
    if kind == "unpaired" and not (good or bad or source.chosen or source.rejected):
        raise Wrong("has no answer; say `chosen: refuse` and `rejected: parent` in the source, or give the row one")
    if kind == "prompts" and example.side is None:
        raise Wrong("does not say whether the request is harmful or benign; add `side`, or `label:` to the source")
    refused = source.answer if kind == "sft" else source.chosen
    if refused == "refuse" and example.side == "benign":
        raise Wrong("is a benign request, but the source says to learn a refusal of it; use `parent`, or another file")
    return True


def _need_side(there: bool, which: str) -> None:
    if not there:
        raise Wrong(f"has no {which} answer; say `{which}: refuse` or `{which}: parent` in the source")


# ---------------------------------------------------------------- leaving out


def _deduplicated(drafts: Sequence[Draft], tallies: Sequence[Tally]) -> Iterator[Draft]:
    """The first of rows that say the same: request and, where they come with the row, answers."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, draft in enumerate(drafts):
        example = draft.example
        groups.setdefault((draft.good, draft.bad, example.good is None, example.bad is None), []).append(i)
    gone: set[int] = set()
    for members in groups.values():
        texts = [_texts(drafts[i]) for i in members]
        gone |= {i for i, twice in zip(members, repeated(texts), strict=True) if twice}
    for i, draft in enumerate(drafts):
        if i in gone:
            tallies[draft.file].dropped["repeats another row"] += 1
        else:
            yield draft


def _texts(draft: Draft) -> list[str]:
    """Request and own answers."""
    said = "\n".join(turn["content"] for turn in draft.example.prompt if turn["role"] != "system")
    own = [(draft.good, draft.example.good), (draft.bad, draft.example.bad)]
    return [said, *(text for whose, text in own if whose == "own" and text is not None)]


def _decontaminated(drafts: Sequence[Draft], held_out: HeldOut, tallies: Sequence[Tally]) -> Iterator[Draft]:
    for draft in drafts:
        if held_out.twin(draft.requests):
            tallies[draft.file].dropped["near-duplicate of a held-out prompt"] += 1
        elif held_out.overlaps(_texts(draft)):
            tallies[draft.file].dropped["eight words in common with a held-out prompt"] += 1
        else:
            yield draft


def _prompts(suites: Sequence[Path]) -> Iterator[str]:
    """The requests of held-out files, of any format."""
    problems: list[str] = []
    for path in suites:
        for line, row in corpus.lines(path, problems):
            try:
                found = formats.FORMATS[formats.detect(row)].examples(row, "prompts")
            except (Wrong, Skip) as wrong:
                problems.append(f"{path}:{line}: {wrong}")
                continue
            yield from (turn["content"] for example in found for turn in example.prompt if turn["role"] == "user")
    complain(problems)


def _allowed(drafts: Sequence[Draft], policy: Policy, tallies: Sequence[Tally]) -> Iterator[Draft]:
    """Requests that the policy lets pass are not refused."""
    for draft in drafts:
        hazard = policy.hazards.get(draft.example.hazard or "")
        if draft.good == "refuse" and hazard is not None and not hazard.covered:
            tallies[draft.file].dropped["hazard that the policy allows"] += 1
        else:
            yield draft


# ---------------------------------------------------------------- answering and mixing


def _rows(
    stage: Stage, sources: Sequence[Source], kind: Kind, drafts: Sequence[Draft], tallies: Sequence[Tally]
) -> list[Row]:
    pools = [_pool(stage, i, source, drafts) for i, source in enumerate(sources)]
    counts = _counts(sources, [len(pool) for pool in pools], tallies)
    picked = [pool[:count] for pool, count in zip(pools, counts, strict=True)]
    said = _parents_words(stage, [draft for pool in picked for draft in pool])
    rows: list[Row] = []
    for i, (pool, count) in enumerate(zip(picked, counts, strict=True)):
        made = [found for draft in pool if (found := _made(draft, kind, stage.policy, said, tallies[draft.file]))]
        again = _cycled(made, count, i, tallies) if sources[i].share is not None else made
        rows += [row for found in again for row in found]
    _rng(stage, "order").shuffle(rows)
    return rows


def _rng(stage: Stage, purpose: str) -> random.Random:
    return random.Random(f"{stage.recipe.seed}:{purpose}")


def _pool(stage: Stage, i: int, source: Source, drafts: Sequence[Draft]) -> list[Draft]:
    """The drafts of a source in the order in which they are drawn, at most `limit`, some with the system prompt."""
    rng = _rng(stage, f"source {i}")
    pool = [draft for draft in drafts if draft.source == i]
    rng.shuffle(pool)
    pool = pool[: source.limit]
    bare = [draft for draft in pool if draft.example.prompt[0]["role"] != "system"]
    brief: Turn = {"role": "system", "content": system_prompt(stage.policy)}
    for draft in rng.sample(bare, min(len(bare), round(source.system * len(pool)))):
        draft.example = replace(draft.example, prompt=(brief, *draft.example.prompt))
    return pool


def _counts(sources: Sequence[Source], sizes: Sequence[int], tallies: Sequence[Tally]) -> list[int]:
    """How many drafts of each source: all, or its share of their sum by the method of largest remainders."""
    if all(source.share is None for source in sources):
        return list(sizes)
    exact = [(source.share or 0.0) * sum(sizes) for source in sources]
    counts = [math.floor(count) for count in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_rest[: sum(sizes) - sum(counts)]:
        counts[i] += 1
    return counts


def _cycled(made: list[list[Row]], count: int, source: int, tallies: Sequence[Tally]) -> list[list[Row]]:
    """`count` of them, from the first again where they are fewer. Raises DataError."""
    if count and not made:
        raise DataError(f"data[{source}] has a share, but no row of it is left: {_reasons(tallies)}")
    return [made[i % len(made)] for i in range(count)]


def _parents_words(stage: Stage, drafts: Sequence[Draft]) -> dict[str, str]:
    """The greedy answer to each request that needs one, by `_key`, of the stage's parent or of the source's checkpoint;
    empty where it did not come to an end."""
    said: dict[str, str] = {}
    for by in dict.fromkeys(draft.by for draft in drafts):
        asked = {
            _key(draft): draft.prompt for draft in drafts if draft.by == by and "parent" in (draft.good, draft.bad)
        }
        said |= dict(zip(asked, _answers(stage, by, list(asked.values())), strict=True))
    return said


def _answers(stage: Stage, by: str | None, prompts: list[list[Turn]]) -> list[str]:
    if not prompts:
        return []
    checkpoint = stage.parent if by is None else find(by, stage.file)
    if by is not None:
        stage.uses[f"answers by {checkpoint.name}"] = read_lineage(checkpoint).weights
    model, tokenizer = trainer.load(checkpoint)
    model.to(trainer.device())  # type: ignore[arg-type]  # its stub is wrong
    return trainer.generate(model, tokenizer, prompts, max_tokens=ANSWER_TOKENS, batch=64)


def _key(draft: Draft) -> str:
    return json.dumps([draft.by, draft.prompt])


def _made(draft: Draft, kind: Kind, policy: Policy, said: Mapping[str, str], tally: Tally) -> list[Row]:
    """The rows of a draft; none, and a reason in the tally, when an answer is missing."""
    example = draft.example

    def answer(whose: Answer, own: str | None) -> str | None:
        if whose == "own":
            return own
        return refusal(policy, example.hazard) if whose == "refuse" else said[_key(draft)]

    good, bad = answer(draft.good, example.good), answer(draft.bad, example.bad)
    if "parent" in (draft.good, draft.bad) and not said[_key(draft)]:
        tally.dropped["the parent's answer did not end"] += 1
        return []
    if kind in ("preference", "unpaired") and good is not None and good == bad:
        tally.dropped["both answers are the same"] += 1
        return []
    tally.used += 1
    tally.licences |= {example.licence} if example.licence else set()
    tally.sides[example.side or "unknown"] += 1
    return list(_shaped(draft, kind, good, bad))


def _shaped(draft: Draft, kind: Kind, good: str | None, bad: str | None) -> Iterator[Row]:
    example, prompt = draft.example, draft.prompt
    more = {"hazard": example.hazard, "side": example.side}
    about: Row = {key: value for key, value in more.items() if value is not None} | {"origin": draft.origin}
    if kind == "sft":
        yield {"messages": [*prompt, _said(good)], **about}
    elif kind == "preference":
        ratings = {"margin": example.margin, "confidence": example.confidence}
        rated = {key: value for key, value in ratings.items() if value is not None}
        yield {"prompt": prompt, "chosen": [_said(good)], "rejected": [_said(bad)], **rated, **about}
    elif kind == "unpaired":
        for text, label in ((good, True), (bad, False)):
            if text is not None:
                yield {"prompt": prompt, "completion": [_said(text)], "label": label, **about}
    else:
        yield {"prompt": prompt, "label": example.side, **more, "origin": draft.origin}


def _said(text: str | None) -> Turn:
    assert text is not None  # `_fits` let no row without it pass
    return {"role": "assistant", "content": text.strip()}


# ---------------------------------------------------------------- describing


def _write_manifest(
    path: Path, kind: Kind, rows: Sequence[Row], tallies: Sequence[Tally], held_out: Sequence[Path]
) -> Manifest:
    """One line for the whole, one for each file, one for each suite that was held out."""
    lines: list[Row] = [{"kind": kind, "rows": len(rows)}, *(tally.entry() for tally in tallies)]
    lines += [{"held_out": suite.name, "sha256": sha256(suite)} for suite in [*held_out, *demo()]]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return _manifest(lines)


def read_manifest(folder: Path) -> Manifest:
    """What a checkpoint was trained on: {kind, rows, files: [...], held_out: [...]}. Raises DataError."""
    path = folder / MANIFEST
    try:
        return _manifest([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    except FileNotFoundError:
        raise DataError(f"{str(folder)!r} keeps no {MANIFEST}: no method that reads data files made it") from None
    except (OSError, ValueError, IndexError):
        raise DataError(f"{str(path)!r} is damaged") from None


def _manifest(lines: Sequence[Row]) -> Manifest:
    files = [line for line in lines if "file" in line]
    return {**lines[0], "files": files, "held_out": [line for line in lines if "held_out" in line]}
