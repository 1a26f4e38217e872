"""A deployment as the engine sees it: layers in the order a request meets them, the weights one of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from alignstack.core.events import Mode, OnError
from alignstack.core.judge import Judge
from alignstack.core.layer import PHASES, Layer, LayerInfo, Phase
from alignstack.core.ports import ModelClient, Sampling
from alignstack.policy import Policy

WEIGHTS = "model"
"""The name of the layer that is the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A layer in its place in one stack."""

    layer: Layer | None
    """None for the weights."""
    info: LayerInfo
    """The layer's facts, with the scope that the stack file declares."""
    mode: Mode = "enforce"
    on_error: OnError = "block"
    timeout_s: float | None = None
    threshold: float | None = None
    where: str = ""
    """The line of configuration that made it, for example `stack.yaml: layers[1]`."""

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def barrier(self) -> bool:
        """Changes what later layers see, so they wait for it."""
        return self.info.kind == "modifier" and self.mode == "enforce"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Everything that decides what a client receives."""

    layers: tuple[Placed, ...]
    """In the order a request meets them; the weights are the one named `model`."""
    model: ModelClient
    policy: Policy = field(repr=False)
    reference: ModelClient | None = None
    """The checkpoint that stands in when the weights are switched off; None: no known parent."""
    judges: tuple[Judge, ...] = ()
    fingerprint: str = ""
    """SHA-256 of configuration, layer versions, model versions and policy; secrets and places do not enter."""
    source: str = "built-in"
    """The stack file's absolute path, or `built-in`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """As written: `${NAME}` is not expanded."""
    sampling: Sampling = field(default_factory=Sampling)
    race: bool = False
    """The model starts while request layers decide."""
    streaming: bool = False
    """Tokens may leave before the answer is complete, each after every enforcing output layer has cleared it."""
    window: int = 16
    """Tokens between two checks of the output layers on a stream."""
    refusal: str = "I can't help with that."
    on_block: Literal["refusal", "error"] = "refusal"
    """What the gateway sends when a layer blocks."""

    _acting: dict[tuple[Phase, frozenset[str]], tuple[Placed, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _groups: dict[tuple[Phase, frozenset[str]], tuple[tuple[bool, tuple[Placed, ...]], ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    """Both are asked for several times a request."""

    def warm(self) -> None:
        """Has layers that can do so prepare for many requests, and the model load its weights; takes seconds at the
        first time. Raises what the model raises when they cannot be used."""
        for part in (*(placed.layer for placed in self.layers), self.model):
            prepare = getattr(part, "warm", None)
            if prepare is not None:
                prepare()

    def placed(self, name: str) -> Placed | None:
        return next((placed for placed in self.layers if placed.name == name), None)

    def acting(self, phase: Phase, off: frozenset[str] = frozenset()) -> tuple[Placed, ...]:
        """The layers of a phase that are switched on, in order."""
        found = self._acting.get((phase, off))
        if found is None:
            on = (p for p in self.layers if phase in p.info.phases and p.layer is not None and p.name not in off)
            found = self._acting[phase, off] = tuple(on)
        return found

    def groups(self, phase: Phase, off: frozenset[str] = frozenset()) -> tuple[tuple[bool, tuple[Placed, ...]], ...]:
        """The same in groups, each with whether it is of barriers. Others of a group are asked at the same time."""
        found = self._groups.get((phase, off))
        if found is None:
            runs = groupby(self.acting(phase, off), key=lambda placed: placed.barrier)
            found = self._groups[phase, off] = tuple((barrier, tuple(run)) for barrier, run in runs)
        return found

    def modifiers(self) -> tuple[str, ...]:
        """Names of the enforced modifiers in stack order; the weights are among them only if they can be switched
        off."""
        return tuple(p.name for p in self.layers if p.barrier and (p.name != WEIGHTS or self.reference is not None))

    @property
    def shadows(self) -> bool:
        """Are there layers that nobody waits for? Their verdicts may come after the answer."""
        return any(p.mode == "shadow" and not p.info.quick for p in self.layers)

    @property
    def enforced(self) -> frozenset[str]:
        """Names of all layers that act, the weights among them."""
        return frozenset(p.name for p in self.layers if p.mode == "enforce")

    def streams(self, off: frozenset[str] = frozenset()) -> bool:
        """Can text leave before the answer is complete? Not when an output layer rewrites it."""
        return self.streaming and not any(placed.barrier for placed in self.acting("output", off))

    @property
    def look_every(self) -> int:
        """Tokens between two looks of the output layers: one window for all of them, so that what has left by the
        time one flags does not depend on which others are on. It is the smallest that any of them asks for."""
        return min([self.window, *(p.info.window for p in self.acting("output") if p.info.window)])

    def client(self, off: frozenset[str] = frozenset()) -> ModelClient:
        """Who answers: the model, or the reference when the weights are off."""
        return self.reference if WEIGHTS in off and self.reference is not None else self.model


def in_order(layers: list[Placed], weights: Placed) -> tuple[Placed, ...]:
    """By phase, the order of the stack file kept within one; the weights after the last request or prompt layer."""
    return tuple(sorted([*layers, weights], key=lambda placed: min(PHASES.index(p) for p in placed.info.phases)))
