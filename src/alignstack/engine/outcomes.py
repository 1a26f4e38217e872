"""What a client would have received from any subset of the layers, read from a grid. Pure; the semantics are those of
`alignstack.engine.run`, and the tests hold the two against each other."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from alignstack.core.grid import Call, Cell, Draft, Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one request ends for one subset of the layers."""

    status: Literal["delivered", "blocked", "cut", "unavailable"]
    delivered: str
    released_tokens: int = 0
    draft: int
    """Index into `Grid.drafts`: what the model said, or would have said, had nobody blocked."""
    blockers: tuple[str, ...] = ()
    """Everyone who would stop it, in stack order; the first is an artefact of that order."""


def outcome(grid: Grid, on: Collection[str], refusal: str) -> Outcome:
    """The outcome when exactly the layers in `on` are on and enforced. Weights without a reference count as on, named
    or not. Shadow layers must not be in `on`. Raises KeyError when the grid has no cell for the modifiers in `on`."""
    cell = cell_of(grid, on)
    draft = grid.drafts[cell.draft]
    stops = [grid.calls[i] for i in cell.calls if grid.calls[i].layer in on and grid.calls[i].blocks]
    blockers = tuple(dict.fromkeys(call.layer for call in stops))
    if any(call.phase != "output" for call in stops):
        return Outcome(status="blocked", delivered=refusal, draft=cell.draft, blockers=blockers)
    if draft.finish == "unavailable":
        return Outcome(status="unavailable", delivered="", draft=cell.draft)
    if not stops:
        return Outcome(
            status="delivered", delivered=draft.text, released_tokens=len(draft.ends) or draft.tokens, draft=cell.draft
        )
    return _stopped(draft, stops, refusal, cell.draft, blockers)


def _stopped(draft: Draft, stops: list[Call], refusal: str, index: int, blockers: tuple[str, ...]) -> Outcome:
    """The first layer to flag ends the stream."""
    tokens = min(call.cut_at or 0 for call in stops)
    if not tokens:
        return Outcome(status="blocked", delivered=refusal, draft=index, blockers=blockers)
    text = draft.text[: draft.ends[tokens - 1]]
    return Outcome(status="cut", delivered=text, released_tokens=tokens, draft=index, blockers=blockers)


def cell_of(grid: Grid, on: Collection[str]) -> Cell:
    """The cell in which the modifiers of `on`, and those that cannot be switched off, are on."""
    always = frozenset.intersection(*(frozenset(cell.on) for cell in grid.cells))
    some = frozenset().union(*(cell.on for cell in grid.cells))
    wanted = always | some.intersection(on)
    for cell in grid.cells:
        if frozenset(cell.on) == wanted:
            return cell
    raise KeyError(f"no cell with exactly {sorted(wanted)} on")
