"""A conversation → token ids by a checkpoint's own chat template, so that no text of a turn can become a token of the
format.

The template is rendered with a mark in place of each turn's text. Control tokens are looked for in what the template
itself wrote, never in the turns; then everything is encoded at once, so that an honest conversation gets exactly the
ids that `apply_chat_template` gives it. Templates see marks, so a turn cannot steer them either (some look for
`</think>` and the like in earlier answers: they will not find it).

Control tokens are the tokenizer's special tokens and those of its other added tokens that the template writes. Added
tokens that merely abbreviate text (HTML tags, runs of blanks) stay what they are.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignstack.core.errors import DataError
from alignstack.core.messages import Message

CHARS_PER_TOKEN = 16
"""A turn is cut to this many characters a token of room before it is tokenised: a generous bound that keeps a 10 MB
prompt from costing more than a long one."""
SHARE = 4
"""A long prompt leaves at most 1/SHARE of the context free for the answer."""
BLANK = "\u2005"
"""Stands on both sides of a mark. Where the template trims a turn, it is gone, and the turn's text is trimmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the model is given."""

    ids: tuple[int, ...]
    truncated: bool
    """Something did not fit the context and was cut."""


class Chat:
    """Safe to use from several threads."""

    def __init__(self, tokenizer: Any, *, context: int, template: str | None = None) -> None:
        """`tokenizer` is a fast tokenizer of transformers; `context` is in tokens; `template` replaces the tokenizer's
        own. Raises DataError when there is none or when the tokenizer is no fast one."""
        self.tokenizer, self.context = tokenizer, context
        self.template = template or _template(tokenizer)
        self._nonce = secrets.token_hex(8)  # a turn that cannot know it cannot hold a mark
        self._marks = re.compile(f"({BLANK}?)\ue000{self._nonce}:(\\d+)\ue001({BLANK}?)")
        tree = _tree(tokenizer)
        control = {t["content"] for t in tree["added_tokens"] if _is_control(t, self.template)}
        self._stand_ins = {text: f"\ue000{self._nonce}={i}\ue001" for i, text in enumerate(sorted(control))}
        longest = sorted(map(re.escape, control), key=len, reverse=True)
        self._control = re.compile("|".join(longest) or "(?!)")
        self._encoder, self._ids = _encoder(tree, self._stand_ins)
        unknown = getattr(tokenizer, "unk_token_id", None)
        self._forbidden = {t["id"] for t in tree["added_tokens"] if t["content"] in control} - {unknown}

    def prompt(self, messages: Sequence[Message], max_tokens: int) -> Prompt:
        """System turns come first, as one, and keep their head and at most half of the context; of the others the
        newest stay, a single one that is too long keeps its end. Raises DataError when the template does not take the
        conversation."""
        room = self.context - min(max_tokens, max(self.context // SHARE, 1))
        whole = _in_order(messages)
        system = [self._headed(turn) for turn in whole if turn.role == "system"]
        turns = [*system, *(_ending(turn, room) for turn in whole[len(system) :][-room:])]
        cut = turns != whole
        while len(ids := self.ids(turns)) > room:
            turns, cut = self._shorter(turns, len(ids), room), True
        return Prompt(ids=tuple(ids), truncated=cut)

    def ids(self, turns: Sequence[Message]) -> list[int]:
        """All of a conversation and the opening of the answer. A system turn that the template refuses or leaves out
        goes in front of the first user turn."""
        try:
            return self._encode(self._filled(turns))
        except DataError:
            if len(turns) < 2 or turns[0].role != "system":
                raise
            return self._encode(self._filled(_folded(turns)))

    def _filled(self, turns: Sequence[Message]) -> str:
        """The rendered conversation, control tokens of the template replaced by their stand-ins."""
        literal, *rest = self._marks.split(self._rendered(turns))
        pieces, found = [self._controlled(literal)], set[int]()
        for before, number, after, literal in zip(*[iter(rest)] * 4, strict=True):
            text = turns[int(number)].content
            text = text if before else text.lstrip()
            pieces += [text if after else text.rstrip(), self._controlled(literal)]
            found.add(int(number))
        for number, turn in enumerate(turns):
            if turn.content and number not in found:
                raise DataError(f"the chat template leaves out what a {turn.role!r} turn says; use another template")
        return "".join(pieces)

    def _rendered(self, turns: Sequence[Message]) -> str:
        marks = [f"{BLANK}\ue000{self._nonce}:{i}\ue001{BLANK}" for i in range(len(turns))]
        chat = [
            {"role": turn.role, "content": mark if turn.content else ""}
            for turn, mark in zip(turns, marks, strict=True)
        ]
        try:
            text = self.tokenizer.apply_chat_template(
                chat, chat_template=self.template, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template may fail in any way
            roles = ", ".join(turn.role for turn in turns)
            raise DataError(f"the chat template does not take a conversation of {roles}: {error}") from None
        return str(text)

    def _controlled(self, literal: str) -> str:
        return self._control.sub(lambda found: self._stand_ins[found[0]], literal)

    def _encode(self, text: str) -> list[int]:
        encoding = self._encoder.encode(text, add_special_tokens=False)
        ids: list[int] = []
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if i in self._ids:
                ids.append(self._ids[i])
            elif i in self._forbidden:  # some vocabularies hold control tokens as ordinary pieces
                ids += [j for char in text[start:end] for j in self._encoder.encode(char, add_special_tokens=False).ids]
            else:
                ids.append(i)
        return ids

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text begins and ends, in characters."""
        return list(self._encoder.encode(text, add_special_tokens=False).offsets)

    def _headed(self, turn: Message) -> Message:
        half = max(self.context // 2, 1)
        text = turn.content[: half * CHARS_PER_TOKEN]
        ends = self._offsets(text)
        return replace(turn, content=text[: ends[half - 1][1]] if len(ends) > half else text)

    def _shorter(self, turns: Sequence[Message], length: int, room: int) -> list[Message]:
        """At least one token less than `length`, at best `room`: whole turns from the oldest on, then the head of the
        last one, at the very end the system turn."""
        system = [turn for turn in turns if turn.role == "system"]
        rest = list(turns[len(system) :])
        if len(rest) > 1:
            return [*system, *self._newest(rest, length, room)]
        if rest and rest[0].content:
            return [*system, self._tailed(rest[0], length - room)]
        if system and rest:
            return rest
        raise DataError(f"the chat template alone is longer than the context of {self.context} tokens")

    def _newest(self, turns: list[Message], length: int, room: int) -> list[Message]:
        """Without as many of the oldest as it takes; many templates want a user turn to come first. What the template
        adds to a turn is rather taken for too much: the next round then drops another one."""
        sizes = [len(self._offsets(turn.content)) for turn in turns]
        added = -((sum(sizes) - length) // len(turns))
        gone = 0
        while len(turns) > 1 and (length > room or turns[0].role != "user"):
            turns.pop(0)
            length -= sizes[gone] + added
            gone += 1
        return turns

    def _tailed(self, turn: Message, over: int) -> Message:
        starts = self._offsets(turn.content)
        return replace(turn, content=turn.content[max(starts[over][0], 1) :] if over < len(starts) else "")


def _template(tokenizer: Any) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        raise DataError(
            "the checkpoint has no chat template; give one with `chat_template: FILE.jinja`, or take an "
            "instruction-tuned checkpoint"
        ) from None


def _tree(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(f"{type(tokenizer).__name__} is no fast tokenizer; the checkpoint needs a tokenizer.json")
    tree: dict[str, Any] = json.loads(backend.to_str())
    return tree | {"truncation": None, "padding": None}


def _is_control(token: dict[str, Any], template: str) -> bool:
    text: str = token["content"]
    return bool(text) and (token["special"] or (text in template and not text.isspace()))


def _encoder(tree: dict[str, Any], stand_ins: dict[str, str]) -> tuple[Any, dict[int | None, int]]:
    """The tokenizer with control tokens under other names, and for its ids of added tokens the true ones."""
    from tokenizers import AddedToken, Tokenizer

    encoder = Tokenizer.from_str(json.dumps(tree | {"added_tokens": []}))
    flags = ("single_word", "lstrip", "rstrip", "special")
    names = {token["id"]: stand_ins.get(token["content"], token["content"]) for token in tree["added_tokens"]}
    for token in tree["added_tokens"]:
        given = {flag: token[flag] for flag in flags}
        normalized = token["normalized"] and token["content"] not in stand_ins
        encoder.add_tokens([AddedToken(names[token["id"]], normalized=normalized, **given)])
    return encoder, {encoder.token_to_id(name): i for i, name in names.items()}


def _in_order(messages: Sequence[Message]) -> list[Message]:
    """Valid text, the system turns first, as one."""
    clean = [replace(m, content=m.content.encode("utf-8", "replace").decode("utf-8")) for m in messages]
    said = [m.content for m in clean if m.role == "system" and m.content.strip()]
    head = [Message(role="system", content="\n\n".join(said))] if said else []
    return [*head, *(m for m in clean if m.role != "system")]


def _ending(turn: Message, room: int) -> Message:
    return replace(turn, content=turn.content[max(len(turn.content) - room * CHARS_PER_TOKEN, 0) :])


def _folded(turns: Sequence[Message]) -> list[Message]:
    """The system turn's text in front of the turn after it."""
    system, first, *rest = turns
    return [replace(first, content=f"{system.content}\n\n{first.content}"), *rest]
