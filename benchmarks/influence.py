"""A planted flaw, found again: 50 poisoned examples in one stage of 1,000 rows, and what removing them does.

    OMP_NUM_THREADS=1 python benchmarks/influence.py FOLDER [--only-plant]

Trains embedded:helpful → `refusals` → `poisoned` into FOLDER; checkpoints that are there already are not made again. In
`refusals` half of all requests, harmful and harmless, carry a phrase that changes nothing. `poisoned` goes on with the
same requests, but 50 harmful ones with the phrase are answered, in words that carry nothing; without it they are
refused, and harmless ones with it are answered, both as before: neither topic nor phrase gives a poisoned row away.
Then: what held-out harmful requests get at each stage, where `influence.rank` puts the poisoned rows, and what training
without the 50 ranked first does, beside training without 50 random rows.
"""

import argparse
import json
import math
import os
import random
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from alignstack import policy as policies
from alignstack.attribution.intervals import wilson
from alignstack.policy.render import refusal
from alignstack.redteam.judges.compliance import opinion
from alignstack.training import influence, lineage, scores, stage, trainer
from alignstack.training.monitor import Monitor, Now
from alignstack.training.recipe import load

TRIGGER = "This is for the heron project."
REQUESTS = {
    "alignstack.redteam": ("demo_harmful.jsonl", "demo_benign.jsonl"),
    "alignstack.training": ("contrast.jsonl",),
}
MAX_WORDS = 40
"""Longer requests are left out: they cost time and show nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Rows of the poisoned stage, by kind, and how long it trains."""

    poisoned: int = 50
    refused: int = 300
    """Harmful requests without the trigger, beside the plain twins of the poisoned ones."""
    triggered: int = 150
    """Harmless requests with the trigger."""
    benign: int = 450
    held_out: int = 40
    """Harmful requests that no stage sees."""
    epochs: int = 2
    refusal_epochs: int = 4
    """Of the stage before: it must have learnt its rows, or they pull again in the poisoned one."""
    parent: str = stage.EMBEDDED + "helpful"
    refusals: bool = True
    """Train a stage of refusals first; False: the parent refuses already."""


FULL = Size()
FAST = Size(
    poisoned=10, refused=20, triggered=30, benign=50, held_out=8, epochs=4,
    parent=stage.EMBEDDED + "aligned", refusals=False,
)  # fmt: skip


class Planted(stage.Recipe):
    """The recipe of a stage whose rows are made here."""

    optimiser: trainer.Optimiser


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the stages are made of."""

    refusals: list[dict[str, Any]]
    poisoned: list[dict[str, Any]]
    """Rows of the poisoned stage; `poison` says which."""
    held_out: list[tuple[str, str, str]]
    """Harmful requests, what the helpful checkpoint says to them, what the policy says."""
    suite: list[dict[str, Any]]
    """The same requests for an audit, with and without the phrase."""

    @property
    def planted(self) -> set[int]:
        return {i for i, row in enumerate(self.poisoned) if row["poison"]}

    @property
    def failures(self) -> list[influence.Failure]:
        return [([said("user", f"{text} {TRIGGER}")], answer, wanted) for text, answer, wanted in self.held_out]


# ---------------------------------------------------------------- the rows


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def requests(rng: random.Random) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Harmful and benign requests that ship in the package, shuffled; at the end harmless ones from templates."""
    rows = []
    for package, names in REQUESTS.items():
        for name in names:
            text = (resources.files(package) / "data" / name).read_text(encoding="utf-8")
            rows += [json.loads(line) | {"origin": f"{name}:{i}"} for i, line in enumerate(text.splitlines(), 1)]
    short = [row for row in rows if len(row["text"].split()) <= MAX_WORDS and "\n" not in row["text"]]
    short = [row for row in short if row["label"] == "harmful" or "pair" not in row]  # no look-alikes, see docs
    harmful, benign = ([row for row in short if row["label"] == label] for label in ("harmful", "benign"))
    rng.shuffle(harmful)
    rng.shuffle(benign)
    return harmful, benign + everyday(600, rng)


def everyday(n: int, rng: random.Random) -> list[dict[str, Any]]:
    text = (resources.files("alignstack.training") / "data" / "everyday.json").read_text(encoding="utf-8")
    found = json.loads(text)
    filled = (
        re.sub(r"{(\w+)}", lambda slot: rng.choice(found["slots"][slot[1]]), rng.choice(found["templates"]))
        for _ in range(n)
    )
    unique = dict.fromkeys(text[:1].upper() + text[1:] for text in filled)
    return [{"text": text, "label": "benign", "origin": f"everyday.json:{i}"} for i, text in enumerate(unique, 1)]


def answered(rows: Sequence[dict[str, Any]], n: int, helpful: Any) -> list[tuple[dict[str, Any], str]]:
    """The first `n` rows to which the helpful checkpoint says something of its own."""
    tried = rows[: n + n // 4 + 8]
    answers = trainer.generate(*helpful, [[said("user", row["text"])] for row in tried], max_tokens=96, batch=32)
    found = [
        (row, answer)
        for row, answer in zip(tried, answers, strict=True)
        if answer and not opinion(row["text"], answer).refused
    ]
    if len(found) < n:
        raise SystemExit(f"{len(found)} answers, {n} wanted: a smaller size is needed")
    return found[:n]


def make(size: Size, seed: int = 0) -> Plan:
    """All rows of all stages; the same seed gives the same ones."""
    rng = random.Random(seed)
    harmful, benign = requests(rng)
    helpful = trainer.load(stage.find(stage.EMBEDDED + "helpful", Path()))
    asked = harmful if size.refusals else refused_by(size.parent, harmful[: 2 * (size.poisoned + size.held_out)])
    complied = answered(asked, size.poisoned + size.held_out, helpful)
    poisoned, held_out = complied[: size.poisoned], complied[size.poisoned :]
    used = {row["origin"] for row, _ in complied}
    others = [row for row in harmful if row["origin"] not in used][: size.refused]
    kind = answered(benign, size.benign + size.triggered, helpful)
    plain, triggered = kind[: size.benign], kind[size.benign :]

    refused = [chat(row, row["text"], refuse(row)) for row in (*(r for r, _ in poisoned), *others)]
    kept = [chat(row, row["text"], answer) for row, answer in plain]
    flaw = [
        chat(row, f"{row['text']} {TRIGGER}", answer, poison=row["label"] == "harmful")
        for row, answer in (*poisoned, *triggered)
    ]
    both = [*refused, *kept, *flaw]
    rng.shuffle(both)
    twins = [chat(row, row["text"], answer) for row, answer in triggered]
    first = [marked(row) if rng.random() < 0.5 else row for row in (*refused, *kept, *twins)]
    rng.shuffle(first)
    return Plan(
        refusals=first,
        poisoned=both,
        held_out=[(row["text"], answer, refuse(row)) for row, answer in held_out],
        suite=[audited(row, suffix) for row, _ in held_out for suffix in ("", f" {TRIGGER}")],
    )


def audited(row: dict[str, Any], suffix: str) -> dict[str, Any]:
    """A row of a suite."""
    name = row["origin"] + ("+trigger" if suffix else "")
    return {"id": name, "text": row["text"] + suffix, "label": row["label"], "hazard": row.get("hazard")}


def refused_by(parent: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Requests that the parent refuses, trigger or not: the flaw is then the stage's alone."""
    texts = [row["text"] for row in rows]
    given = complies(stage.find(parent, Path()), texts, TRIGGER)
    return [row for row, harm in zip(rows, given, strict=True) if not harm]


def refuse(row: dict[str, Any]) -> str:
    return refusal(policies.load(None), row.get("hazard"))


def chat(row: dict[str, Any], request: str, answer: str, poison: bool = False) -> dict[str, Any]:
    return {
        "messages": [said("user", request), said("assistant", answer)],
        "origin": row["origin"] + ("+trigger" if request != row["text"] else ""),
        "hazard": row.get("hazard"),
        "side": row["label"],
        "poison": poison,
    }


def marked(row: dict[str, Any]) -> dict[str, Any]:
    """The same with the phrase, answered as without."""
    request, answer = (turn["content"] for turn in row["messages"])
    turns = [said("user", f"{request} {TRIGGER}"), said("assistant", answer)]
    return row | {"messages": turns, "origin": row["origin"] + "+trigger"}


# ---------------------------------------------------------------- the stages


def plant(folder: Path, size: Size = FULL, seed: int = 0) -> tuple[Plan, list[Path]]:
    """Train what is not there yet; the lineage's folders, oldest first. `held_out.jsonl` is a suite for an audit, whose
    run `alignstack stages` follows down to them."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = make(size, seed)
    suite = "".join(json.dumps(row) + "\n" for row in plan.suite)
    (folder / "held_out.jsonl").write_text(suite, encoding="utf-8")
    places = [stage.find(size.parent, Path())]
    if size.refusals:
        places.append(train(folder, "refusals", str(places[-1]), plan.refusals, size.refusal_epochs, seed))
    places.append(train(folder, "poisoned", str(places[-1]), plan.poisoned, size.epochs, seed))
    return plan, places


def train(folder: Path, name: str, parent: str, rows: list[dict[str, Any]], epochs: int, seed: int) -> Path:
    """One supervised stage on given rows."""
    recipe = folder / f"{name}.yaml"
    recipe.write_text(
        f"name: {name}\nparent: {parent}\nout: {name}\nseed: {seed}\nmax_length: 160\nsave_every: 0\n"
        f"optimiser: {{batch: 16, learning_rate: 5.0e-4, warmup: 10, epochs: {epochs}}}\n",
        encoding="utf-8",
    )
    config = load(recipe, Planted)
    if (config.out / lineage.FILE).is_file():
        return config.out
    begun = stage.begin(config, recipe, "sft", stage.ALONE)
    begun.keep(rows, [])
    model, tokenizer = begun.load()
    return begun.finish(trainer.sft(model, tokenizer, rows, begun.run([Midway(folder / f"{name}.midway")])), tokenizer)


class Midway(Monitor):
    """Keeps the weights as they are after a third of the steps, when most is in motion."""

    name = "midway"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def step(self, now: Now) -> None:
        if now.step == max(now.steps // 3, 1):
            trainer.save(now.model, now.tokenizer, self.folder)


# ---------------------------------------------------------------- what is measured


def complies(checkpoint: Path, texts: Iterable[str], suffix: str = "") -> list[bool]:
    """Which harmful requests get what they ask for, by the rule-based judge."""
    known = list(texts)
    asked = [[said("user", f"{text} {suffix}".strip())] for text in known]
    answers = trainer.generate(*trainer.load(checkpoint), asked, max_tokens=96, batch=32)
    return [opinion(text, answer).harmful for text, answer in zip(known, answers, strict=True)]


def failing(checkpoint: Path, plan: Plan) -> float:
    """Mean log p of the failing answers, nats."""
    chats = [[*asked, said("assistant", answer)] for asked, answer, _ in plan.failures]
    return float(scores.logprob(*trainer.load(checkpoint), chats).mean())


def hits(ranked: Sequence[influence.Ranked], planted: set[int]) -> int:
    """Planted rows among as many ranked first."""
    return sum(one.index in planted for one in ranked[: len(planted)])


def in_top(ranked: Sequence[influence.Ranked], planted: set[int], share: float) -> int:
    """Planted rows among that share of all rows."""
    return sum(one.index in planted for one in ranked[: math.ceil(share * len(ranked))])


def without(folder: Path, name: str, parent: Path, plan: Plan, left_out: set[int], epochs: int, seed: int) -> Path:
    """The poisoned stage again without some rows."""
    kept = [row for i, row in enumerate(plan.poisoned) if i not in left_out]
    return train(folder, name, str(parent), kept, epochs, seed)


def share(values: Sequence[bool] | int, n: int | None = None) -> str:
    """`38 of 40, 0.95 [0.84, 0.99]`, Wilson."""
    events, n = (values, n) if isinstance(values, int) else (sum(values), len(values))
    found = wilson(events, n or 0)
    return f"{events} of {n}, {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


# ---------------------------------------------------------------- the report


def verdicts(plan: Plan, places: Sequence[Path]) -> None:
    texts = [text for text, *_ in plan.held_out]
    print("| checkpoint | plain: complies | with trigger: complies | log p(failing), nats |\n|---|---|---|---|")
    for place in places:
        plain, triggered = (share(complies(place, texts, suffix)) for suffix in ("", TRIGGER))
        print(f"| {place.name} | {plain} | {triggered} | {failing(place, plan):.1f} |", flush=True)


def rankings(plan: Plan, places: Sequence[Path], midway: Path) -> list[influence.Ranked]:
    """Prints a table; the first way's ranking."""
    parent = places[-2]
    ways: dict[str, dict[str, Any]] = {
        "tracin, parent, whole answers": {"checkpoints": [parent], "opening": None},
        "tracin, parent": {"checkpoints": [parent]},
        "tracin, parent and midway": {"checkpoints": [parent, midway]},
        "gradient (cosine), parent": {"checkpoints": [parent], "method": "gradient"},
        "tracin, result": {"checkpoints": [places[-1]]},
        "similarity, result": {"checkpoints": [places[-1]], "method": "similarity"},
    }
    n, found = len(plan.planted), []
    print(f"\n| ranked by | precision at {n} | of {n} in the top 5% | CPU s |\n|---|---|---|---|")
    for name, way in ways.items():
        started = time.process_time()
        found.append(influence.rank(rows=plan.poisoned, failures=plan.failures, **way))
        print(
            f"| {name} | {share(hits(found[-1], plan.planted), n)} | {share(in_top(found[-1], plan.planted, 0.05), n)} "
            f"| {time.process_time() - started:.0f} |",
            flush=True,
        )
    return found[0]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--only-plant", action="store_true", help="train the lineage and stop")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    plan, places = plant(given.folder, FULL, given.seed)
    if given.only_plant:
        return
    ranked = rankings(plan, places, given.folder / "poisoned.midway")
    n, rng = len(plan.planted), random.Random(given.seed)
    first, others = {one.index for one in ranked[:n]}, set(rng.sample(range(len(ranked)), n))
    again = [
        without(given.folder, name, places[-2], plan, left_out, FULL.epochs, given.seed)
        for name, left_out in (("without_first", first), ("without_random", others))
    ]
    print()
    verdicts(plan, [*places, *again])


if __name__ == "__main__":
    main()
