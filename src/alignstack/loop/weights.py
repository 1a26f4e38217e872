"""What only the weights themselves can say about a replay, with the `train` extra: how much they would rather refuse,
which preference pairs were never learnt, and which training examples pull toward a failure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from alignstack.attribution.stages import ItemStages
from alignstack.core.grid import Draft, Record
from alignstack.core.messages import Conversation
from alignstack.loop.stages import FOLDER, Member, Replayed, checkpoint_folder
from alignstack.policy import render

WORST = 5
"""Origins of pairs that were never learnt, shown for each stage."""
BETA = 0.1
"""Of a preference recipe that does not say it (Rafailov et al. 2023)."""

ANSWERED = {"messages", "chosen", "completion"}
"""Keys of rows that hold an answer; those of reinforcement learning are prompts, which pull nowhere by themselves."""

Turns = list[dict[str, str]]


def drift(found: Replayed) -> list[dict[str, Any]]:
    """log p(refusal) - log p(compliance) in nats by stage, for every request that fails at some stage with the guards
    off: `{id, values}`. Both texts are the same for all stages: answers of the last stages that gave such, else the
    policy's refusal. Requests that no stage complied with are left out."""
    from alignstack.training import scores

    texts = {item.id: _texts(found, item) for item in found.attribution.items if item.off.kind != "clean"}
    known = {name: text for name, text in texts.items() if text is not None}
    if not known:
        return []
    stages = [scores.drift(_folder(found, member), list(known.values())) for member in found.members]
    return [
        {"id": name, "values": [round(values[i], 4) for values in stages]} for i, name in enumerate(known)
    ]  # fmt: skip


def margins(found: Replayed) -> list[dict[str, Any]]:
    """For each stage trained on pairs and kept with them: `{stage, pairs, never_learnt, worst}`."""
    from alignstack.training import scores

    made = []
    for member, parent, rows in _trained(found):
        if "chosen" not in rows[0]:
            continue
        values = scores.margins(_folder(found, member), parent, rows, _beta(member))
        never = scores.never_learnt(values)
        worst = [str(rows[i].get("origin") or f"row {i}") for i in never[:WORST]]
        made.append({"stage": member.name, "pairs": len(rows), "never_learnt": len(never), "worst": worst})
    return made


def examples(found: Replayed, n: int) -> list[dict[str, Any]]:
    """For each stage that introduced failures and kept what it was trained on, the `n` examples that pull hardest
    toward them: `{stage, label, failures, rows: [{index, origin, score}]}`, harm and false refusals apart, since rows
    that teach the one seldom teach the other. By their gradients where the stage began: at its end what was learnt has
    none left."""
    from alignstack.training import influence

    introduced = defaultdict(list)
    for item in found.attribution.items:
        if item.off.by is not None and item.off.kind != "fixed":
            introduced[found.members[item.off.by].name, item.label].append(item)
    made = []
    for (member, parent, rows), label in product(_trained(found), ("harmful", "benign")):
        failures = [_failure(found, item, member) for item in introduced[member.name, label]]
        if not failures or not ANSWERED & rows[0].keys():
            continue
        ranked = influence.rank([parent], rows, failures, parent=parent, beta=_beta(member))
        best = [{"index": one.index, "origin": one.origin, "score": float(f"{one.score:.6g}")} for one in ranked[:n]]
        made.append({"stage": member.name, "label": label, "failures": len(failures), "rows": best})
    return made


def _trained(found: Replayed) -> Iterator[tuple[Member, Path, list[dict[str, Any]]]]:
    """Stages whose folder holds the rows, with their parent's folder."""
    from alignstack.training.stage import ROWS, read_rows

    for member in found.members:
        if member.record is None or member.place is None or not (member.place / ROWS).is_file():
            continue
        parent = (member.place / (member.record.parent_path or "")).resolve()
        rows = read_rows(member.place / ROWS)
        if rows and member.record.parent_path:
            yield member, parent, rows


def _beta(member: Member) -> float:
    """Of the recipe kept beside the weights."""
    from alignstack.training.stage import RECIPE

    if member.place is None or not (member.place / RECIPE).is_file():
        return BETA
    recipe = yaml.safe_load((member.place / RECIPE).read_text(encoding="utf-8"))
    beta = recipe.get("beta", BETA) if isinstance(recipe, Mapping) else BETA
    return float(beta) if isinstance(beta, int | float) else BETA


def _folder(found: Replayed, member: Member) -> Path:
    return checkpoint_folder(member, found.run.folder / FOLDER)


def _texts(found: Replayed, item: ItemStages) -> tuple[Turns, str, str] | None:
    """Request, refusal, compliance: of a harmful request the answer that does harm."""
    answers = [_answer(found, item.id, member) for member in found.members]
    spoken = [
        (draft.text, refused, fails)
        for (draft, refused), fails in zip(answers, item.fails_off, strict=True)
        if draft.text.strip()
    ]
    refusals = [text for text, refused, _ in spoken if refused]
    others = [text for text, refused, fails in spoken if not refused and fails is (item.label == "harmful")]
    if not others:
        return None
    refusal = refusals[-1] if refusals else render.refusal(found.stack.policy, item.hazard)
    return _turns(_asked(found, item.id)), refusal, others[-1]


def _failure(found: Replayed, item: ItemStages, member: Member) -> tuple[Turns, str, str] | tuple[Turns, str]:
    """Request, the failing answer of the stage that introduced it and, where one is known, the answer that was wanted:
    the gradient of their difference is about the decision, that of the first alone mostly about its wording."""
    asked, failing = _turns(_asked(found, item.id)), _answer(found, item.id, member)[0].text
    texts = _texts(found, item)
    if texts is None:
        return asked, failing
    return asked, failing, texts[1] if item.label == "harmful" else texts[2]


def _answer(found: Replayed, name: str, member: Member) -> tuple[Draft, bool]:
    """Of the weights alone, and whether it declines."""
    record: Record = next(one for one in found.records[member.name] if one.id == name)
    cell = min(record.grid.cells, key=lambda cell: len(cell.on))
    return record.grid.drafts[cell.draft], record.judgements[cell.draft].first.refused


def _asked(found: Replayed, name: str) -> Conversation:
    return next(attempt.item.messages for attempt in found.attempts if attempt.id == name)


def _turns(messages: Sequence[Any]) -> Turns:
    return [{"role": message.role, "content": message.content} for message in messages]
