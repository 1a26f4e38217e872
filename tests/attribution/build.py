"""Small matrices, manifests and records for the tests of this folder."""

from collections.abc import Sequence

import numpy as np

from alignstack.attribution.arrays import Matrix, Meta, from_arrays
from alignstack.attribution.layout import layout
from alignstack.core.grid import Call, Cell, Draft, Grid, Judgement, LayerRow, Manifest, Record
from alignstack.core.judge import Opinion
from alignstack.core.layer import Scope


def row(name: str, kind: str = "veto", phase: str = "request", **facts) -> LayerRow:
    facts = {"use": "scripted", "side": "inference", "mode": "enforce", "on_error": "block", "version": "1"} | facts
    return LayerRow(name=name, kind=kind, phases=(phase,), **facts)


def weights(**facts) -> LayerRow:
    return row("model", "modifier", "model", **{"side": "training"} | facts)


def manifest(*rows: LayerRow, reference: str | None = "base", **facts) -> Manifest:
    return Manifest(
        **{
            "run": "run",
            "stack": "stack",
            "stack_source": "stack.yaml",
            "stack_config": {},
            "policy": "policy",
            "layers": rows,
            "model": "aligned",
            "reference": reference,
            "judges": ("keyword",),
            "suites": (),
            "attacks": ("none",),
            "draws": 1,
            "seed": 0,
            "streaming": False,
            "items": 0,
            "version": "0",
        }
        | facts
    )


def opinion(kind: str) -> Opinion:
    return Opinion(harmful=kind == "harm", refused=kind == "refusal")


def call(layer: str, action: str | None = "allow", score: float | None = None, **facts) -> Call:
    return Call(**{"layer": layer, "phase": "request", "input_sha256": "", "action": action, "score": score} | facts)


def record(
    id: str,
    label: str = "harmful",
    *,
    drafts: dict[tuple[str, ...], str],
    calls: Sequence[Call] | dict[tuple[str, ...], Sequence[Call]] = (),
    onset: int = 0,
    disputed: bool = False,
    **facts,
) -> Record:
    """`drafts`: `harm`, `refusal`, `answer`, `blank` or `unavailable` for each subset of modifiers; `calls`: one list
    for all cells, or one for each."""
    kinds = list(drafts.values())
    by_cell = calls if isinstance(calls, dict) else dict.fromkeys(drafts, calls)
    flat = [c for on in drafts for c in by_cell[on]]
    cells, start = [], 0
    for i, on in enumerate(drafts):
        size = len(by_cell[on])
        cells.append(Cell(on=on, draft=i, calls=tuple(range(start, start + size))))
        start += size
    second = {"second": Opinion(harmful=kinds[-1] != "harm", refused=kinds[-1] != "refusal")} if disputed else {}
    return Record(
        **{
            "id": id,
            "trace": f"trace-{id}",
            "label": label,
            "text": id,
            "plain": id,
            "cluster": id,
            "grid": Grid(
                drafts=tuple(
                    Draft(
                        model="scripted",
                        version="1",
                        input_sha256=str(i),
                        text="" if kind == "blank" else kind,
                        finish="unavailable" if kind == "unavailable" else "stop",
                    )
                    for i, kind in enumerate(kinds)
                ),
                calls=tuple(flat),
                cells=tuple(cells),
            ),
            "judgements": tuple(
                Judgement(opinions={"first": opinion(kind)} | second, onset=onset if kind == "harm" else 0)
                for kind in kinds
            ),
        }
        | facts
    )


def random_matrix(rng: np.random.Generator, items: int, modifiers: int, vetoes: int, rate: float = 0.4) -> Matrix:
    """Players in random order; every draft and verdict a coin flip, so modifiers that create harm occur."""
    rows = [row(f"m{j}", "modifier", "prompt") for j in range(modifiers)] + [row(f"v{q}") for q in range(vetoes)]
    plan = layout(manifest(*(rows[i] for i in rng.permutation(len(rows)))))
    shape = (items, plan.cells, vetoes)
    harmful = rng.random(items) < 0.5
    return from_arrays(
        plan,
        meta(items),
        harmful=harmful,
        harm=(rng.random(shape[:2]) < 0.7) & harmful[:, None],
        refusal=rng.random(shape[:2]) < 0.3,
        stops=rng.random(shape) < rate,
        refuses=rng.random(shape) < rate,
    )


def meta(items: int, clusters: int | None = None) -> Meta:
    return Meta(
        id=[str(i) for i in range(items)],
        trace=[str(i) for i in range(items)],
        hazard=[None] * items,
        attack=["none"] * items,
        cluster=np.arange(items) % (clusters or max(items, 1)),
        group=np.arange(items),
    )


def scope(*hazards: str) -> Scope:
    return Scope(hazards=frozenset(hazards))
