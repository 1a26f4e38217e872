"""Which layers play, and at which place of every array they stand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignstack.core.errors import DataError
from alignstack.core.grid import LayerRow, Manifest
from alignstack.core.layer import PHASES

MODEL = "model"
"""The name of the weights."""
MOST_PLAYERS = 62
"""Coalitions are bit masks in a signed 64-bit integer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Enforced layers are players, in stack order. Bit j of a cell's number is modifier j, switched on."""

    players: tuple[LayerRow, ...]
    modifiers: tuple[LayerRow, ...]
    """The enforced ones. Shadow modifiers change nothing and are left out."""
    vetoes: tuple[LayerRow, ...]
    """All vetoes, those in shadow too: the last axis of a matrix's verdicts."""
    refusal_as_veto: bool
    """The weights have no reference checkpoint and stand among the vetoes, not among the modifiers."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.players)

    @property
    def cells(self) -> int:
        return 1 << len(self.modifiers)

    @property
    def full(self) -> int:
        """The cell of the deployed stack."""
        return self.cells - 1

    @property
    def enforced(self) -> tuple[int, ...]:
        """Places of the enforced vetoes on the veto axis."""
        return tuple(i for i, row in enumerate(self.vetoes) if row.mode == "enforce")

    @property
    def shadow(self) -> tuple[int, ...]:
        return tuple(i for i, row in enumerate(self.vetoes) if row.mode == "shadow")

    def bit(self, name: str) -> int:
        """The player's bit in a coalition mask."""
        return 1 << self.names.index(name)

    def modifier(self, name: str) -> int | None:
        """Which modifier it is; None for a veto."""
        return next((j for j, row in enumerate(self.modifiers) if row.name == name), None)

    def veto(self, name: str) -> int | None:
        return next((i for i, row in enumerate(self.vetoes) if row.name == name), None)

    def weights_only(self) -> int:
        """The cell in which the weights are the only modifier switched on."""
        j = self.modifier(MODEL)
        return 0 if j is None else 1 << j

    def met(self) -> tuple[str, ...]:
        """Players in the order in which a request meets them."""
        order = sorted(self.players, key=lambda row: min((PHASES.index(phase) for phase in row.phases), default=0))
        return tuple(row.name for row in order)


def layout(manifest: Manifest) -> Layout:
    """From the layers of the audited stack.

    Raises DataError when there are more than `MOST_PLAYERS` enforced layers or two with one name.
    """
    rows, alone = manifest.layers, manifest.reference is None
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise DataError(f"run {manifest.run!r}: two layers have one name among {', '.join(names)}")
    players = tuple(row for row in rows if row.mode == "enforce")
    if not players:
        raise DataError(f"run {manifest.run!r}: no layer was enforced, so there is nothing to attribute")
    if len(players) > MOST_PLAYERS:
        raise DataError(
            f"run {manifest.run!r}: {len(players)} enforced layers; at most {MOST_PLAYERS} can be attributed"
        )
    return Layout(
        players=players,
        modifiers=tuple(row for row in players if row.kind == "modifier" and not (alone and row.name == MODEL)),
        vetoes=tuple(row for row in rows if row.kind == "veto" or (alone and row.name == MODEL)),
        refusal_as_veto=alone and MODEL in names,
    )


def covers(rows: Sequence[LayerRow], hazards: Sequence[str | None]) -> NDArray[np.bool_]:
    """[hazards, rows] does the layer's declared scope cover the hazard?"""
    table = {hazard: [row.scope.covers(hazard) for row in rows] for hazard in set(hazards)}
    return np.array([table[hazard] for hazard in hazards], dtype=np.bool_).reshape(len(hazards), len(rows))
