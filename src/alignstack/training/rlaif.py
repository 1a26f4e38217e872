"""`alignstack train rlaif`: preferences by a judge that reads the principles, then DPO or a reward model.

RL-CAI (Bai et al. 2022): the parent answers each request more than once; a judge reads principles drawn at random and
two answers, in both orders, and says which keeps better to them. Its certainty becomes a soft label. Pairs on which its
verdict follows the order are no evidence and are dropped; how often that happened is reported. Every verdict is kept in
`preferences.jsonl` beside the weights.
"""

import itertools
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from alignstack.core.errors import DataError
from alignstack.core.messages import digest
from alignstack.core.wilson import wilson
from alignstack.training import dataset, dpo, losses, trainer
from alignstack.training.feedback import Case, Feedback, build
from alignstack.training.feedback.answers import Answers, sample
from alignstack.training.feedback.ask import Failed, all_of
from alignstack.training.feedback.case import Compared
from alignstack.training.feedback.draw import Drawn, Principles, number
from alignstack.training.feedback.kept import Kept, unfinished
from alignstack.training.feedback.rows import asked, learn_from, turn
from alignstack.training.losses import Preference
from alignstack.training.recipe import RecipePath, load
from alignstack.training.soft import soften
from alignstack.training.stage import ALONE, Recipe, Stage, Tools, begin

FILE = "preferences.jsonl"
Line = Mapping[str, Any]


class RLAIF(Preference, Recipe):
    """The recipe: what a preference loss takes (for `then: dpo`), and:"""

    prompts: list[dataset.Source] = Field(min_length=1)
    """Files of requests, harmful and benign."""
    held_out: list[RecipePath] = Field(default_factory=list)
    """Suites that will be audited: prompts that are near-duplicates of theirs are dropped."""
    answers: Answers = Answers()
    """How the parent draws its answers."""
    count: int = Field(default=2, ge=2, le=8)
    """Answers to each request; every two of them make a pair."""
    feedback: dict[str, Any]
    """The judge: `{use: constitution, model: …}` or `{use: guard}`."""
    principles: Principles = Principles()
    min_confidence: float = Field(default=0.6, ge=0.5, le=1)
    """Pairs of which the judge is less certain are dropped."""
    then: Literal["dpo", "reward"] = "dpo"
    """Learn from the pairs directly, or make a reward model for `alignstack train rlhf`."""
    soft_copies: int = Field(default=4, ge=1)
    """A pair with label p enters that often, in both orientations in the proportion p to 1 - p."""
    center: float | None = Field(default=0.01, ge=0)
    """Of a reward model: weight of the penalty on the sum of both rewards (Eisenstein et al. 2023)."""
    on_falling_chosen: Literal["warn", "stop"] = "warn"
    """When chosen answers become less likely while the margin rises."""
    falling_bound: float | None = Field(default=None, gt=0)
    """Nats by which they may; as for `dpo`."""
    optimiser: trainer.Optimiser = trainer.Optimiser(learning_rate=1e-4, weight_decay=0.0)


def run(recipe: Path, tools: Tools = ALONE) -> Path:
    """Train and save; returns the checkpoint folder."""
    config = load(recipe, RLAIF)
    plan = losses.plan(config, str(recipe))
    if not tools.resume:
        unfinished(config.out, FILE)
    stage = begin(config, recipe, "rlaif", tools)
    judge = build(config.feedback, policy=stage.policy, file=recipe, where="feedback")
    stage.uses["judge"] = judge.version
    drawn = Drawn(config.principles, stage.policy, seed=config.seed, file=str(recipe))
    cases = asked(stage, config.prompts, config.held_out)
    pairs = paired(cases, sample(stage, cases, config.answers, config.count))
    found = compare(stage, config, pairs, drawn, judge)
    rows = learn_from(stage, preferred(config, pairs, found))
    describe(stage, pairs, found, rows)
    if config.then == "reward":
        scorer, tokenizer = trainer.load_scorer(stage.parent, config.seed)
        soft = soften(rows, config.soft_copies)
        return stage.finish(trainer.reward(scorer, tokenizer, soft, stage.run(), center=config.center), tokenizer)
    trained = dpo.fit(stage, plan, rows, stage.parent, stage.run(dpo.watch(stage, plan)))
    return stage.finish(trained, trained.tokenizer or trainer.load(stage.parent)[1])


def paired(cases: Sequence[Case], said: Mapping[str, Sequence[str]]) -> list[tuple[Case, str, str]]:
    """Every two different answers that came to their end. The case's id becomes the pair's: "file.jsonl:12 0-1"."""
    return [
        (Case(id=f"{case.id} {i}-{j}", prompt=case.prompt, row=case.row), said[case.id][i], said[case.id][j])
        for case in cases
        for i, j in itertools.combinations(range(len(said[case.id])), 2)
        if said[case.id][i] and said[case.id][j] and said[case.id][i] != said[case.id][j]
    ]


def compare(
    stage: Stage, config: RLAIF, pairs: Sequence[tuple[Case, str, str]], drawn: Drawn, judge: Feedback
) -> Mapping[str, Line]:
    """The lines of `preferences.jsonl`, by id: `request`, `answers`, `principles`, the probability that the first
    answer is the better one where it was shown `first` and `second`, and `p` of both; or what `failed`."""
    settings = [config.seed, config.principles.model_dump(mode="json")]
    version = digest("preferences 1", judge.version, settings, [[case.id, a, b] for case, a, b in pairs])
    kept, texts = Kept(stage.work / FILE, version), {case.id: (a, b) for case, a, b in pairs}

    async def ask(case: Case, attempt: int) -> Compared:
        seed = number(config.seed, case.id, attempt)
        return await judge.compare(case, *texts[case.id], drawn.draw(case.id), seed)

    def keep(case: Case, said: Compared | Failed) -> None:
        about = {"id": case.id, "request": case.request, "answers": texts[case.id], "principles": drawn.draw(case.id)}
        kept.add(about | ({"failed": said.why} if isinstance(said, Failed) else
                          {"first": said.first, "second": said.second, "p": said.p}))  # fmt: skip

    todo = [case for case, _, _ in pairs if case.id not in kept]
    all_of(todo, [judge], ask, keep, title=f"{config.name}: preferences")
    kept.close(case.id for case, _, _ in pairs)
    return kept.rows


def preferred(config: RLAIF, pairs: Sequence[tuple[Case, str, str]], found: Mapping[str, Line]) -> list[dict[str, Any]]:
    """Pairs of which the judge is certain enough, the better answer first, with its `confidence`. Raises DataError when
    there are none."""
    rows = []
    for case, a, b in pairs:
        p = found[case.id].get("p", 0.5)
        better, worse = (a, b) if p > 0.5 else (b, a)
        if p != 0.5 and max(p, 1 - p) >= config.min_confidence:
            rows.append({"prompt": list(case.prompt), "chosen": [turn(better)], "rejected": [turn(worse)],
                         "confidence": max(p, 1 - p), **case.about})  # fmt: skip
    if not rows:
        raise DataError(
            f"the judge prefers none of two answers with a confidence of {config.min_confidence} in any of "
            f"{len(pairs)} pairs ({bias(found)}): sample more answers (`count`), at a higher temperature, ask a better "
            "judge, or lower `min_confidence`"
        )
    return rows


class Bias:
    """Share of the pairs on which the verdict follows the order of the answers, with its 95 % interval (Wilson)."""

    def __init__(self, lines: Sequence[Line]) -> None:
        judged = [Compared(first=line["first"], second=line["second"]) for line in lines if "failed" not in line]
        places = [each.place for each in judged]
        self.n, self.first, self.second = len(judged), places.count("first"), places.count("second")
        self.rate = (self.first + self.second) / self.n if self.n else math.nan
        self.low, self.high = wilson(self.first + self.second, self.n)

    def __str__(self) -> str:
        if not self.n:
            return "no pair was judged"
        share = f"{self.rate:.2f} [{self.low:.2f}, {self.high:.2f}] of {self.n} pairs"
        return f"position bias {share}: {self.first} times the first in both orders, {self.second} times the second"


def bias(found: Mapping[str, Line]) -> Bias:
    """Of all pairs that were judged."""
    return Bias(list(found.values()))


def describe(
    stage: Stage, pairs: Sequence[tuple[Case, str, str]], found: Mapping[str, Line], rows: Sequence[Line]
) -> None:
    """Counts for the model card, and where to read what was said."""
    order = bias(found)
    failed = sum("failed" in line for line in found.values())
    flipped = order.first + order.second
    stage.notes["preferences"] = {
        "pairs": len(pairs),
        "trained on": len(rows),
        "dropped": dict(+Counter({"the judge failed": failed, "the verdict follows the order": flipped,
                                  "not certain enough": len(pairs) - failed - flipped - len(rows)})),
        "mean confidence": round(sum(row["confidence"] for row in rows) / len(rows), 3),
        "position bias": {"rate": order.rate, "low": order.low, "high": order.high, "n": order.n,
                          "first": order.first, "second": order.second},
    }  # fmt: skip
    print(f"{stage.recipe.name}: {len(rows)} of {len(pairs)} pairs to train on, {failed} failed, {flipped} follow the "
          f"order; {order}; every verdict is in {str(stage.recipe.out / FILE)!r}", file=sys.stderr)  # fmt: skip
