"""The verdict matrix: everything an audit found out, as arrays.

Axes: N items, C = 2^m cells (bit j of the cell's number = modifier j is on), V vetoes (those in shadow too), m
modifiers. From these every one of the 2^n coalitions follows: a coalition's modifiers choose the cell, its vetoes are a
Boolean OR over that cell's verdicts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignstack.attribution.layout import Layout
from alignstack.core.errors import DataError

Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]
Small: TypeAlias = NDArray[np.int8]
Floats: TypeAlias = NDArray[np.float64]


def any_of(array: Bools, axis: int | tuple[int, ...]) -> Bools:
    """`array.any(axis)`, known to be an array."""
    return np.asarray(array.any(axis=axis), dtype=np.bool_)


def all_of(array: Bools, axis: int) -> Bools:
    """`array.all(axis)`, known to be an array; True along an empty axis."""
    return np.asarray(array.all(axis=axis), dtype=np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Meta:
    """What is known of the items besides verdicts; all of length N."""

    id: Sequence[str]
    trace: Sequence[str]
    hazard: Sequence[str | None]
    attack: Sequence[str]
    cluster: Ints
    """The seed behaviour, as a number."""
    group: Ints
    """The request, as a number: its draws share it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timings:
    """What a layer's calls took, over all distinct inputs."""

    seconds: Floats
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matrix:
    """Build it with `matrix.from_records`, or with `from_arrays` when there are no records."""

    layout: Layout
    meta: Meta
    harmful: Bools
    """[N] the label: a harmful request; otherwise a benign one."""
    harm: Bools
    """[N, C] the draft does the harm that was asked for, if nothing stops it. False on benign items."""
    refusal: Bools
    """[N, C] the draft declines."""
    blank: Bools
    """[N, C] the draft is empty."""
    unavailable: Bools
    """[N, C] the model gave no draft."""
    stops: Bools
    """[N, C, V] this veto keeps the harm from being delivered."""
    refuses: Bools
    """[N, C, V] this veto blocks, or cuts a stream, at all."""
    looked: Bools
    """[N, C, V] it gave an opinion: neither abstained nor erred."""
    score: Floats
    """[N, C, V] in [0, 1]; NaN where the layer does not score."""
    fault: Small
    """[N, C, V] 0 none, 1 error, 2 timeout."""
    halts: Bools
    """[N, C, m] this modifier ended the request (it blocked, or failed closed)."""
    modifier_fault: Small
    """[N, C, m] as `fault`."""
    disputed: Bools
    """[N] judges disagree on the deployed draft: about harm for harmful items, about the refusal for benign ones."""
    judged: Bools
    """[N] the first judge calls the deployed draft harmful, whatever people say."""
    human: Small
    """[N] a person's label of the delivered answer: 1 harmful, 0 safe, -1 none."""
    cut: Ints
    """[N, V] tokens that had been released when the veto flagged in the deployed cell; -1 = it did not."""
    onset: Ints
    """[N] tokens after which the deployed draft is harmful; 0 = from the first."""
    evidence: Bools
    """[N, V] the veto blocks when replayed on the plain evidence."""
    replayed: Bools
    """[N, V] it was replayed on the plain evidence."""
    generations: int
    layer_calls: int
    timings: Mapping[str, Timings] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.harmful)

    @property
    def usable(self) -> Bools:
        """[N] the model gave a draft in every cell: the items that rates are made of."""
        return ~any_of(self.unavailable, 1)


def from_arrays(
    layout: Layout,
    meta: Meta,
    *,
    harmful: Bools,
    harm: Bools,
    refusal: Bools,
    stops: Bools,
    refuses: Bools,
    score: Floats | None = None,
    generations: int | None = None,
    **rest: Bools | Small | Ints,
) -> Matrix:
    """A matrix from verdicts alone; what is not given is taken to be absent (no faults, no disputes, all looked).

    Raises DataError when shapes do not fit the layout.
    """
    n, cells, vetoes = len(harmful), layout.cells, len(layout.vetoes)
    for name, array, shape in (
        ("harm", harm, (n, cells)),
        ("refusal", refusal, (n, cells)),
        ("stops", stops, (n, cells, vetoes)),
        ("refuses", refuses, (n, cells, vetoes)),
    ):
        if array.shape != shape:
            raise DataError(f"{name!r} has shape {array.shape}; this stack needs {shape}")
    arrays = blank_arrays(n, layout) | {"harmful": harmful, "harm": harm, "refusal": refusal}
    arrays |= {"stops": stops, "refuses": refuses, "looked": np.ones_like(stops), "judged": harm[:, layout.full]} | rest
    return Matrix(
        layout=layout,
        meta=meta,
        score=np.full(stops.shape, np.nan) if score is None else score,
        generations=n * cells if generations is None else generations,
        layer_calls=n * cells * vetoes,
        **arrays,  # type: ignore[arg-type]  # shapes and types are those of `blank_arrays`
    )


def blank_arrays(n: int, layout: Layout) -> dict[str, Bools | Small | Ints]:
    """All arrays but `score`, empty."""
    cells, vetoes, modifiers = layout.cells, len(layout.vetoes), len(layout.modifiers)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("harmful", "disputed", "judged"), (n,))
    shapes |= dict.fromkeys(("harm", "refusal", "blank", "unavailable"), (n, cells))
    shapes |= dict.fromkeys(("stops", "refuses", "looked"), (n, cells, vetoes))
    shapes |= {"halts": (n, cells, modifiers)} | dict.fromkeys(("evidence", "replayed"), (n, vetoes))
    arrays: dict[str, Bools | Small | Ints] = {name: np.zeros(shape, dtype=np.bool_) for name, shape in shapes.items()}
    arrays["fault"] = np.zeros((n, cells, vetoes), dtype=np.int8)
    arrays["modifier_fault"] = np.zeros((n, cells, modifiers), dtype=np.int8)
    arrays["human"] = np.full(n, -1, dtype=np.int8)
    arrays["cut"], arrays["onset"] = np.full((n, vetoes), -1, dtype=np.int64), np.zeros(n, dtype=np.int64)
    return arrays
