"""`alignstack train constitutional`: critique and revision by the policy's principles, then SFT on the revisions.

SL-CAI (Bai et al. 2022): the parent answers; a critic says by principles drawn at random where the answer falls short
and writes it again, round after round; the parent is fine-tuned on the last revisions, mixed with its own answers to
benign requests. Every critique and revision is kept in `critiques.jsonl` beside the weights.
"""

import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from alignstack.core.errors import DataError
from alignstack.core.messages import digest
from alignstack.training import dataset, trainer
from alignstack.training.feedback import Case, Feedback, build
from alignstack.training.feedback.answers import Answers, Speaker, sample, speaker
from alignstack.training.feedback.ask import Failed, all_of
from alignstack.training.feedback.case import declines
from alignstack.training.feedback.draw import Drawn, Principles, number
from alignstack.training.feedback.kept import Kept, unfinished
from alignstack.training.feedback.rows import asked, learn_from, messages
from alignstack.training.recipe import RecipePath, load
from alignstack.training.stage import ALONE, Recipe, Stage, Tools, begin

FILE = "critiques.jsonl"
TRIES = 8
"""Further answers of the parent to a benign request that it refused, for a guard to choose from."""


class Constitutional(Recipe):
    """The recipe."""

    prompts: list[dataset.Source] = Field(min_length=1)
    """Files of requests, harmful and benign."""
    held_out: list[RecipePath] = Field(default_factory=list)
    """Suites that will be audited: prompts that are near-duplicates of theirs are dropped."""
    answers: Answers = Answers()
    """How the parent draws its first answers; `parent`: at temperature 1."""
    critic: dict[str, Any]
    """A model as in a stack file, the same with more settings (`use: constitution`), or `{use: guard}`."""
    check: dict[str, Any] | bool = True
    """Who says whether the last revision is better than the first answer; those that are not are dropped. true: the
    critic; another block like it; false: nobody."""
    principles: Principles = Principles()
    rounds: int = Field(default=1, ge=1)
    """Of critique and revision; Bai et al. (2022) take 4."""
    criticise: Literal["all", "harmful"] = "all"
    """`harmful`: answers to benign requests stay as the parent gave them, as in the paper."""
    keep_benign: float | None = Field(default=None, ge=0, lt=1)
    """Share of the rows trained on that answer benign requests; fewer when there are not so many. None: all of them."""
    blend: float = Field(default=1.0, gt=0, le=1)
    """Share of the change that is kept: weights = parent + blend x (tuned - parent) (WiSE-FT, Wortsman et al. 2022)."""
    optimiser: trainer.Optimiser = trainer.Optimiser(learning_rate=5e-4)


def run(recipe: Path, tools: Tools = ALONE) -> Path:
    """Train and save; returns the checkpoint folder."""
    config = load(recipe, Constitutional)
    if not tools.resume:
        unfinished(config.out, FILE)
    stage = begin(config, recipe, "constitutional", tools)
    critic, check = sources(stage, config)
    drawn = Drawn(config.principles, stage.policy, seed=config.seed, file=str(recipe))
    cases = asked(stage, config.prompts, config.held_out)
    first = {name: texts[0] for name, texts in sample(stage, cases, config.answers, 1).items()}
    found = criticise(stage, config, cases, first, drawn, critic, check)
    rows = learn_from(stage, mixed(config, cases, found))
    describe(stage, cases, found, rows)
    model, tokenizer = stage.load()
    trained = trainer.sft(model, tokenizer, rows, stage.run())
    if config.blend < 1:
        trainer.blend(trained.model, stage.parent, config.blend)
    return stage.finish(trained, tokenizer)


def sources(stage: Stage, config: Constitutional) -> tuple[Feedback, Feedback | None]:
    """The critic, and who checks it. Raises ConfigError."""

    parent: list[Speaker] = []

    def again(case: Case) -> Sequence[str]:
        parent[:] = parent or [speaker(stage, config.answers)]  # loaded when it is needed, and once
        return parent[0]([case], TRIES, f"again {case.id}")[0]

    parts: dict[str, Any] = {"policy": stage.policy, "file": stage.file, "again": again}
    critic = build(config.critic, where="critic", **parts)
    stage.uses["critic"] = critic.version
    if isinstance(config.check, bool):
        return critic, critic if config.check else None
    check = build(config.check, where="check", **parts)
    stage.uses["check"] = check.version
    return critic, check


def criticise(
    stage: Stage, config: Constitutional, cases: Sequence[Case], first: Mapping[str, str], drawn: Drawn,
    critic: Feedback, check: Feedback | None,
) -> Mapping[str, Mapping[str, Any]]:  # fmt: skip
    """The lines of `critiques.jsonl`, by id: `request`, `rounds` (`principle`, `critique`, `revision`), `first`,
    `final`; `dropped` says why a row is not trained on, `failed` what the critic did in place of an answer."""
    settings = [config.rounds, config.criticise, config.seed, config.principles.model_dump(mode="json")]
    version = digest("critiques 1", critic.version, check.version if check else "", settings, dict(first))
    kept = Kept(stage.work / FILE, version)

    async def ask(case: Case, attempt: int) -> dict[str, Any]:
        spared = config.criticise == "harmful" and case.row.get("label") == "benign"
        rounds = 0 if spared or not first[case.id] else config.rounds
        return await one(case, first[case.id], rounds, drawn, critic, check, number(config.seed, case.id, attempt))

    def keep(case: Case, said: dict[str, Any] | Failed) -> None:
        made = {"failed": said.why} if isinstance(said, Failed) else said
        kept.add({"id": case.id, "request": case.request, **made})

    todo = [case for case in cases if case.id not in kept]
    used = [critic, check] if check is not None and check is not critic else [critic]
    all_of(todo, used, ask, keep, title=f"{config.name}: critiques")
    kept.close(case.id for case in cases)
    return kept.rows


async def one(
    case: Case, first: str, rounds: int, drawn: Drawn, critic: Feedback, check: Feedback | None, seed: int
) -> dict[str, Any]:
    """All rounds of one answer, and the verdict on the last."""
    final, said, read = first, [], dict[str, None]()
    for i in range(rounds):
        made = await critic.revise(case, final, drawn.draw(case.id, i), seed + i)
        said.append({"principle": ", ".join(made.principles), "critique": made.critique, "revision": made.revision})
        final = made.revision
        read.update(dict.fromkeys(made.principles))
        if not final:
            break
    row: dict[str, Any] = {"rounds": said, "first": first, "final": final}
    better = not final or final == first or check is None or await check.accepts(case, first, final, tuple(read), seed)
    why = dropped(case, first, final, better)
    return row | ({"dropped": why} if why else {})


def dropped(case: Case, first: str, final: str, better: bool) -> str | None:
    """Why a row is not trained on."""
    if not first:
        return "the parent's answer did not end"
    if not final:
        return "the critic had no revision to offer"
    if not better:
        return "the revision is no better than the first answer"
    if final == first and case.row.get("label") == "harmful" and not declines(final):
        return "left as it was, though the data call the request harmful"  # nothing is learnt from it, or harm
    return None


def mixed(
    config: Constitutional, cases: Sequence[Case], found: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows for SFT: final answers, those to benign requests in the share that the recipe states, in random order.
    Raises DataError when no row is left."""
    rng = random.Random(f"{config.seed}:mix")
    rows: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for case in cases:
        line = found[case.id]
        if "failed" not in line and "dropped" not in line:
            rows[case.row.get("label") == "benign"].append({"messages": messages(case, line["final"]), **case.about})
    benign, others = rows[True], rows[False]
    if config.keep_benign is not None and others:
        wanted = round(len(others) * config.keep_benign / (1 - config.keep_benign))
        benign = rng.sample(benign, min(wanted, len(benign)))
    if not others:
        reasons = "; ".join(f"{n} x {why}" for why, n in _reasons(found).items())
        raise DataError(f"no revision is left to learn from ({reasons or 'no harmful requests'}); "
                        f"read {FILE} in the work folder")  # fmt: skip
    whole = [*others, *benign]
    rng.shuffle(whole)
    return whole


def describe(
    stage: Stage, cases: Sequence[Case], found: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Counts for the model card, and where to read what was said."""
    lines = [found[case.id] for case in cases]
    changed = [line for line in lines if line.get("final") and line["final"] != line["first"]]
    stage.notes["critiques"] = {
        "requests": len(lines),
        "revised": len(changed),
        "trained on": len(rows),
        "of these benign": sum(row.get("side") == "benign" for row in rows),
        "dropped": _reasons(found),
        "principles": dict(Counter(name for line in lines for each in line.get("rounds", ())
                                   for name in each["principle"].split(", ")).most_common()),
    }  # fmt: skip
    counts = "".join(f"; {n} dropped: {why}" for why, n in _reasons(found).items())
    print(f"{stage.recipe.name}: {len(changed)} of {len(lines)} answers revised, {len(rows)} rows to train on{counts}; "
          f"every critique is in {str(stage.recipe.out / FILE)!r}", file=sys.stderr)  # fmt: skip


def _reasons(found: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    why = ("the critic failed" if "failed" in line else line.get("dropped") for line in found.values())
    return dict(Counter(reason for reason in why if reason).most_common())
