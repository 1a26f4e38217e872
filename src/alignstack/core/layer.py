"""The layer protocol: one method in, one verdict out.

A layer sees a read-only view and returns a `Verdict`; the engine acts on it. No layer calls another one, so every
verdict stays separate and attribution can say who did what.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from alignstack.core.messages import Conversation, seal, user_text, written
from alignstack.core.normalise import readings
from alignstack.core.verdict import Verdict

Phase = Literal["request", "prompt", "model", "tool_call", "tool_result", "output"]
PHASES: tuple[Phase, ...] = ("request", "prompt", "model", "tool_call", "tool_result", "output")
"""In the order in which a request meets them."""

Kind = Literal["veto", "modifier"]
"""A veto never changes what others see; a modifier does."""

Side = Literal["training", "inference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a layer sees. The text a layer judges is `text`: the user's turns before the model, the draft after it."""

    phase: Phase
    messages: Conversation
    """The conversation as it stands in this phase, modifiers before this layer applied."""
    draft: str | None = None
    """The model's answer so far (output phase only)."""
    final: bool = True
    """False while a stream is still running and `draft` is a prefix."""
    seen: int = 0
    """Characters of `draft` that this layer was shown before on this stream."""
    earlier: str = ""
    """`digest` of that look."""
    caller: str = ""
    """Opaque id of who asks (key or safety identifier); never a secret."""
    audit: bool = False
    """True in evaluate-all runs: layers with a memory of callers (limits) must abstain."""
    _once: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)
    """What was computed of this view; layers that look at the same view share it."""

    @property
    def text(self) -> str:
        if self.draft is not None:
            return self.draft
        if "text" not in self._once:
            self._once["text"] = user_text(self.messages)
        return str(self._once["text"])

    def recent(self, overlap: int) -> str:
        """What a layer has to look at on a running stream so that all its looks together cost no more than one: the
        text that is new, and `overlap` characters before it. The whole text when nothing was seen, and at the end."""
        if self.final or not self.seen:
            return self.text
        return self.text[max(0, self.seen - overlap) :]

    def readings(self, overlap: int) -> tuple[str, ...]:
        """`core.normalise.readings` of `recent(overlap)`."""
        key = f"readings {overlap}"
        if key not in self._once:
            self._once[key] = readings(self.recent(overlap))
        return cast(tuple[str, ...], self._once[key])

    @property
    def media(self) -> tuple[str, ...]:
        """Kinds of what the conversation holds besides text."""
        return tuple(kind for message in self.messages for kind in message.media)

    @property
    def digest(self) -> str:
        """SHA-256 of the exact input bytes (on a stream, of those and of where the looks before had ended): with the
        layer's version, the key of the memo."""
        if "digest" not in self._once:
            before = f'"{self.earlier}"' if self.earlier else self._conversation
            draft = "null" if self.draft is None else written(self.draft[self.seen if self.earlier else 0 :])
            self._once["digest"] = seal(f'"{self.phase}"', before, draft, "true" if self.final else "false")
        return str(self._once["digest"])

    @property
    def conversation(self) -> str:
        """`core.messages.digest` of the messages."""
        return seal(self._conversation)

    @property
    def _conversation(self) -> str:
        """As it is hashed. Later views of the same conversation are handed it: a request is hashed some four times."""
        if "conversation" not in self._once:
            self._once["conversation"] = written(self.messages)
        return str(self._once["conversation"])

    def at(self, phase: Phase, *, draft: str | None = None) -> "View":
        """The same request further down."""
        view = View(phase=phase, messages=self.messages, draft=draft, caller=self.caller, audit=self.audit)
        view._once["conversation"] = self._conversation
        return view

    def grown(self, draft: str, before: "View | None") -> "View":
        """The next look at a stream, after the look `before`; it hashes the new text alone, so that all looks together
        cost what one does."""
        return View(
            phase=self.phase,
            messages=self.messages,
            draft=draft,
            final=False,
            seen=len(before.draft or "") if before is not None else 0,
            earlier=before.digest if before is not None else "",
            caller=self.caller,
            audit=self.audit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a layer declares that it covers: the `should` of attribution."""

    hazards: frozenset[str] | None = None
    """Canonical hazard ids; None = everything that is not `allowed`."""
    allowed: frozenset[str] = frozenset()
    """Hazard ids that the policy tells this layer to let pass."""
    max_chars: int | None = None
    """The layer judges only the first `max_chars` characters; None = all of them."""

    def covers(self, hazard: str | None) -> bool:
        """An item without a hazard id counts as covered."""
        return hazard is None or (hazard not in self.allowed and (self.hazards is None or hazard in self.hazards))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """The facts about a layer that the engine and attribution need."""

    name: str
    """Unique in the stack."""
    use: str
    """The registered kind of layer, for example `keyword`."""
    phases: tuple[Phase, ...]
    kind: Kind
    version: str
    """Changes whenever the same input could get another verdict (hash of configuration and weights)."""
    side: Side = "inference"
    scope: Scope = field(default_factory=Scope)
    threshold: float | None = None
    """The score in [0, 1] at which it blocks, where it has one that can be moved."""
    window: int | None = None
    """Output layers on streams: check at least every `window` tokens. None = the engine's default."""
    quick: bool = False
    """The engine may begin `check` in its own task, without one for the layer: its verdicts take well under a
    millisecond, or it hands the work to a thread. It must not look at the current task (`asyncio.timeout`)."""
    reads_media: bool = False
    """It looks at images and the like. Of all others an `allow` on a request that holds some is an `abstain`."""
    stateful: bool = False
    """True when verdicts depend on more than the view (rate limits): never memoised, abstains in audits."""


class Layer(Protocol):
    """One safeguard. Sees a read-only view, returns a verdict, changes nothing itself."""

    info: LayerInfo

    async def check(self, view: View) -> Verdict: ...
