"""Words and phrases that must not occur.

Stops: texts that hold one of the listed words, phrases or regular expressions, also behind Unicode look-alikes,
invisible characters and the common encodings that `alignstack.core.normalise` undoes.
Does not stop: the same wish in other words, misspellings, other languages, anything that needs understanding. It also
blocks harmless texts that happen to hold a word. A slow regular expression makes every request slow: it cannot be
interrupted by `timeout_ms`. On a running stream it reads what is new and at least 256 characters before it: a regular
expression that matches more, or a disguise that began earlier, is found once the stream has ended.
"""

import asyncio
import re
from itertools import islice
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from alignstack.core.errors import ConfigError, Problem, nearest
from alignstack.core.layer import LayerInfo, Phase, Scope, View
from alignstack.core.messages import digest
from alignstack.core.normalise import CONTEXT
from alignstack.core.verdict import Span, Verdict
from alignstack.policy import Policy

PHASES: tuple[Phase, ...] = ("request", "tool_call", "tool_result", "output")
MAX_SPANS = 32
"""More matches than this are not listed."""
LONG = 5_000
"""Characters from which the search runs in a thread, so that other requests are served meanwhile: from here on odd
texts take a millisecond."""
ESCAPED = 10
"""Characters that stand for one at most, in an encoding that comes in one piece: `&#1114111;`."""

REVISION = 2
"""Raised whenever the same configuration gives another verdict."""
CLEAN = Verdict(action="allow", score=0.0)


class KeywordConfig(BaseModel):
    """Keys in the stack file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patterns: Annotated[tuple[Annotated[str, StringConstraints(min_length=1)], ...], Field(min_length=1)]
    """Words and phrases, or Python regular expressions with `regex: true`."""
    regex: bool = False
    case_sensitive: bool = False
    whole_word: bool = False
    """A match must not begin or end inside a word."""
    hazard: str | None = None
    """What a match means, as a hazard id of the policy, whose action for this layer then applies."""

    @model_validator(mode="after")
    def _patterns_compile(self) -> "KeywordConfig":
        bad = []
        for index, pattern in enumerate(self.patterns if self.regex else ()):
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                bad.append(f"patterns[{index}] {pattern!r} is not a regular expression: {error}")
        if bad:
            raise ValueError("; ".join(bad))
        return self


class Keyword:
    """Score 1 on a match and 0 otherwise. Spans are given for matches in the text as it was written."""

    Config = KeywordConfig

    def __init__(
        self,
        config: KeywordConfig,
        *,
        name: str,
        phase: Phase | None,
        hazards: frozenset[str] | None,
        policy: Policy,
        base: Path = Path(),
    ) -> None:
        _valid(config, name, phase, policy)
        self._patterns = _compile(config)
        self._lower = not (config.regex or config.case_sensitive)
        self._literals = () if config.regex else tuple(map(self._folded, config.patterns))
        self._overlap = max(CONTEXT, ESCAPED * max(map(len, self._literals), default=0))
        self._hazard = config.hazard
        self._action = policy.action(config.hazard, name) if config.hazard else "block"
        own = frozenset({config.hazard}) if config.hazard else None
        self.info = LayerInfo(
            name=name,
            use="keyword",
            phases=(phase or "request",),
            kind="veto",
            version=digest("keyword", REVISION, config.model_dump(mode="json"), self._action),
            scope=Scope(hazards=hazards if hazards is not None else own),
            quick=True,
        )

    async def check(self, view: View) -> Verdict:
        text = view.recent(self._overlap)
        if not text:
            return Verdict(action="abstain", reason="nothing to read")
        return self._look(view, text) if len(text) < LONG else await asyncio.to_thread(self._look, view, text)

    def _look(self, view: View, text: str) -> Verdict:
        before = len(view.text) - len(text)
        spans = self._spans(text, before)
        if spans:
            return self._found("a listed pattern occurs", spans)
        again = (reading for reading in view.readings(self._overlap) if reading != text)
        if any(self._spans(reading, before if reading[:1] == text[:1] else 0) for reading in again):
            return self._found("a listed pattern occurs once disguises are undone", ())
        return CLEAN

    def _folded(self, text: str) -> str:
        return _lower(text) if self._lower else text

    def _spans(self, text: str, before: int) -> tuple[Span, ...]:
        """Matches in `text`, which stands behind `before` characters that were searched already. A match at its very
        beginning was found then, if it is one: here it could be the end of a word."""
        text = self._folded(text)
        # `in` first: it stays fast with thousands of literals and lets other threads run between two of them.
        if self._literals and not any(literal in text for literal in self._literals):
            return ()
        matches = (match.span() for pattern in self._patterns for match in pattern.finditer(text, min(before, 1)))
        return tuple(Span(start=before + start, end=before + end) for start, end in islice(matches, MAX_SPANS))

    def _found(self, reason: str, spans: tuple[Span, ...]) -> Verdict:
        categories = {self._hazard: 1.0} if self._hazard else {}
        return Verdict(
            action=self._action, score=1.0, hazard=self._hazard, categories=categories, reason=reason, spans=spans
        )


def _valid(config: KeywordConfig, name: str, phase: Phase | None, policy: Policy) -> None:
    found = []
    if phase is not None and phase not in PHASES:
        found.append(
            Problem(where=f"layer {name!r}: phase", what=f"keyword works in {', '.join(PHASES)}, not {phase!r}")
        )
    if config.hazard is not None and config.hazard not in policy.hazards:
        what = f"no hazard {config.hazard!r} in the policy{nearest(config.hazard, policy.hazards)}"
        found.append(Problem(where=f"layer {name!r}: hazard", what=what))
    if found:
        raise ConfigError(found)


def _compile(config: KeywordConfig) -> tuple[re.Pattern[str], ...]:
    """Literal texts as one alternation, longest first; regular expressions one by one, since joining them would
    renumber their groups."""
    if config.regex:
        texts, flags = config.patterns, re.NOFLAG if config.case_sensitive else re.IGNORECASE
    else:
        literals = config.patterns if config.case_sensitive else tuple(map(_lower, config.patterns))
        texts, flags = (_alternation(literals),), re.NOFLAG
    return tuple(re.compile(rf"(?<!\w)(?:{text})(?!\w)" if config.whole_word else text, flags) for text in texts)


def _alternation(literals: tuple[str, ...]) -> str:
    return "|".join(re.escape(literal) for literal in sorted(set(literals), key=lambda text: (-len(text), text)))


def _lower(text: str) -> str:
    """Lower case, one character for one so that spans stay true. On 10 MB and 200 literals, lowering first takes 1 s
    and `re.IGNORECASE` 17 s (one core)."""
    return text.replace("\u0130", "i").lower().replace("\u03c2", "\u03c3")  # dotted I; final sigma
