"""The policy file as frozen, strict types. One file says what training teaches and what every layer does."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Action = Literal["block", "allow", "escalate"]
"""`allow` means that the layer does not cover the hazard; `escalate` asks a later layer to look."""

Taxonomy = Literal["openai_moderation", "llama_guard", "shieldgemma"]

OpenAIName = Literal[
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
]  # fmt: skip
LlamaGuardName = Literal[
    "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11", "S12", "S13", "S14",
]  # fmt: skip
ShieldGemmaName = Literal["Dangerous Content", "Harassment", "Hate Speech", "Sexually Explicit Information"]

CANONICAL = ("vcr", "ncr", "src", "cse", "iwp", "ssh", "hte", "dfm", "ipv", "prv", "spc", "sxc")
"""The twelve hazards of MLCommons AILuminate, without the suffixes of its sub-hazards (`sxc_prn` is `sxc`)."""
ATTACKS = ("jailbreak", "prompt_injection")
"""How a request is dressed, not what it would do."""

OPENING = "I can't help with that."
"""Every refusal opens with these words, so that people and judges know one when they see it."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Id = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


def _opens_as_refusal(text: str) -> str:
    if not re.match(re.escape(OPENING) + r"(\s|$)", text):
        raise ValueError(f"must open with {OPENING!r}")
    return text


Refusal = Annotated[Text, AfterValidator(_opens_as_refusal)]


class Strict(BaseModel):
    """Unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Principle(Strict):
    """One rule of the constitution."""

    id: Id
    text: Text
    critique: Text | None = None
    """The request to criticise an answer by this principle, in place of one made from `text`."""
    revision: Text | None = None
    """The request to write the answer again, in place of one made from `text`."""


class Names(Strict):
    """What other tools call a hazard. One of their names may belong to several hazards."""

    openai_moderation: tuple[OpenAIName, ...] = ()
    llama_guard: tuple[LlamaGuardName, ...] = ()
    shieldgemma: tuple[ShieldGemmaName, ...] = ()


class Hazard(Strict):
    """One kind of harm, or one kind of attack."""

    title: Text
    description: Text
    kind: Literal["hazard", "attack"] = "hazard"
    maps: Names = Names()
    action: Action
    per_layer: Mapping[str, Action] = Field(default_factory=dict)
    """Overrides of `action`, by the layer's `name` in the stack file."""
    guidance: str = ""
    """How to answer well near this hazard; part of the full system prompt."""
    refusal: Refusal
    """The model's own words when it declines; training data are made from it."""

    @property
    def covered(self) -> bool:
        """At least one layer acts on it."""
        return self.action != "allow" or any(action != "allow" for action in self.per_layer.values())


def _unique(principles: tuple[Principle, ...]) -> tuple[Principle, ...]:
    ids = [principle.id for principle in principles]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ValueError(f"ids used more than once: {', '.join(map(repr, twice))}")
    return principles


def _complete(hazards: Mapping[str, Hazard]) -> Mapping[str, Hazard]:
    missing = [name for name in (*CANONICAL, *ATTACKS) if name not in hazards]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}; add them (`action: allow` leaves one uncovered) "
                         "or start the file with `extends: built-in`")  # fmt: skip
    return hazards


class Policy(Strict):
    """A whole policy. `alignstack.policy.load` makes one."""

    version: Text
    name: Text
    persona: Text
    """The first sentence of every system prompt."""
    brief: Text
    """The policy in a sentence or two; follows "Follow the policy:"."""
    block_text: Refusal
    """What clients read when any layer blocks: one text for all, so that it does not tell which layer it was."""
    principles: Annotated[tuple[Principle, ...], Field(min_length=1), AfterValidator(_unique)]
    hazards: Annotated[Mapping[Id, Hazard], AfterValidator(_complete)]
    """The twelve canonical hazards, the two attack categories, and any of your own."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the content; comments, key order and layout do not count."""
        content = json.dumps(self.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def action(self, hazard: str, layer: str) -> Action:
        """What the layer of that name does about a hazard. A hazard that the policy does not name is blocked."""
        known = self.hazards.get(hazard)
        return "block" if known is None else known.per_layer.get(layer, known.action)

    def covered(self, layer: str) -> frozenset[str]:
        """Hazard ids on which the layer of that name acts."""
        return frozenset(name for name in self.hazards if self.action(name, layer) != "allow")

    def canonical(self, taxonomy: Taxonomy, category: str) -> tuple[str, ...]:
        """Hazard ids that another tool reports as `category`; empty when there are none."""
        return tuple(name for name, hazard in self.hazards.items() if category in getattr(hazard.maps, taxonomy))
