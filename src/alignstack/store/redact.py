"""What of a trace is kept: never a secret or a file, and texts only where the operator wants them.

Takes out: keys of OpenAI, Anthropic, this gateway and others that begin with `sk-`, of AWS, GitHub, Slack and Google;
bearer tokens, JSON web tokens, private keys in PEM, passwords in URLs; images and sounds in base64.
Does not take out: passwords in plain words, secrets of other shapes, what people say about themselves. Who must not
keep those keeps no content. A digest of a short text can be guessed.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from hashlib import sha256
from operator import attrgetter
from typing import Any, get_args, get_type_hints

from alignstack.core.trace import Trace
from alignstack.core.verdict import Verdict

SECRET = "[secret]"

SIGNS = re.compile(
    r"""
      -(?<=k-) | A(?:KIA|SIA|Iza) | x(?:ox|app-) | \.slack | 2(?<=ya2)9\. | bearer | B(?:earer|EARER|(?<=--B)EGIN)
    | J(?<=yJ) | :// | _(?:(?<=gh[pousr]_)|(?<=github_)pat_|(?<=secret_)access_key|(?<=SECRET_)ACCESS_KEY)
    """,
    re.VERBOSE,
)
"""In a text without any of them there is no secret. Each begins with its rarest character, few in all: some 3 ns a
character."""

SHORTEST = 15
"""Of a secret without spaces in it, unless it is in a URL before an `@`."""
_AS_RUN = bytes(97 if chr(code).isalnum() or chr(code) in "_-.~+/=?" else 32 for code in range(128)) + b"a" * 128
"""For `bytes.translate`. What is not ASCII comes as `?`."""

SECRETS = re.compile(
    r"""
      (?<![A-Za-z0-9])sk-as-[\w-]{40,}                                   # this gateway
    | (?<![A-Za-z0-9])sk-(?=[\w-]{0,60}\d)[\w-]{20,}                      # OpenAI, Anthropic
    | (?<![A-Za-z0-9])A(?:KI|SI)A[0-9A-Z]{16}(?![0-9A-Z])                 # AWS: names of keys
    | (?P<aws>(?i:secret_access_key)["'\s]{0,8}[=:]["'\s]{0,8})[\w/+=]{40}
    | (?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{20,}                          # GitHub
    | (?<![A-Za-z0-9])github_pat_\w{20,}
    | (?<![A-Za-z0-9])x(?:ox[a-z]|app)-[\w-]{10,}                         # Slack
    | (?P<slack>hooks\.slack\.com/\w{1,20}/)[\w/]{20,}
    | (?<![A-Za-z0-9])AIza[\w-]{35}                                       # Google
    | (?<![A-Za-z0-9])ya29\.[\w-]{20,}
    | (?P<bearer>(?i:bearer)\s{1,8})(?=[\w.~+/=-]{0,80}\d)[\w.~+/=-]{16,}
    | (?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                           # JSON web tokens
    | -----BEGIN\ [A-Z ]{0,40}PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]{0,40}PRIVATE\ KEY-----|\Z)
    | (?P<url>://[^\s:/@]{0,200}:)[^\s/@]{1,200}(?=@)
    """,
    re.VERBOSE | re.DOTALL,
)
"""Every look ahead is bounded, and no two matches can begin in one run of characters: linear in the text."""

DATA_URL = re.compile(r"data:[\w.+/-]{0,100}(?:;[\w.+=-]{0,100}){0,4};base64,")
BASE64 = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])[A-Za-z0-9+/_\r\n-]+={0,2}\s*")

FILE = 512
"""Characters of base64 from which on it is a file, and no word that happens to look like it. Chosen by hand."""

NAMES = frozenset({
    "id", "event", "stack", "stack_source", "caller", "layer", "phase", "mode", "version", "input_sha256", "fault",
    "on_error", "action", "hazard", "categories", "model", "finish", "answered", "usage", "status", "role", "media",
    "call_id", "name",
})  # fmt: skip
"""Fields that hold no text of people or models; all others are looked through, those of later versions too."""

JSON = frozenset({"parts", "more", "arguments"})
"""Fields that hold JSON, and must go on doing so."""

WORDS = frozenset({"type", "format", "detail"})
"""Keys of content parts whose values are words of the API."""

Edit = Callable[[str], str]


def redact(trace: Trace, *, content: bool) -> Trace:
    """The same trace without secrets and files; without `content` also without texts, of which a digest and the length
    stay. A trace in which there is nothing to take out comes back as it is."""
    if content and _clean(trace):
        return trace
    done: dict[str, str] = {}  # most texts of a trace are in it several times
    edit = without_secrets if content else fingerprint

    def once(text: str) -> str:
        if text not in done:
            done[text] = edit(text)
        return done[text]

    redacted: Trace = _walk(trace, once)
    return redacted


def without_secrets(text: str) -> str:
    if not _suspect(text):
        return text
    return SECRETS.sub(lambda found: (found[found.lastgroup] if found.lastgroup else "") + SECRET, text)


def _suspect(text: str) -> bool:
    """May there be a secret? Ordinary words are so short that a pass over bytes, a nanosecond a character, says no."""
    raw = text.encode("ascii", "replace")
    if b"a" * SHORTEST in raw.translate(_AS_RUN) or b"@" in raw or b"-----BEGIN" in raw:
        return SIGNS.search(text) is not None
    return False


def fingerprint(text: str) -> str:
    """`sha256:… (N characters)`; nothing of nothing."""
    return (
        f"sha256:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()} ({len(text)} characters)" if text else ""
    )


def _clean(trace: Trace) -> bool:
    """Is there surely nothing to take out? One search through all texts, each of them once."""
    texts: set[str] = set()
    seen: set[int] = set()  # what the client wrote is in a trace several times
    todo: list[tuple[Any, ...]] = [(trace,)]
    for group in todo:
        for value in group:
            parts, files = _PARTS[type(value)]
            for part in parts(value):
                if type(part) is str:
                    texts.add(part)
                elif part and id(part) not in seen:
                    seen.add(id(part))
                    todo.append(part if type(part) is tuple else (part,))
            if files and any(len(getattr(value, name)) >= FILE for name in files):
                return False
    return not _suspect("\n".join(texts))


class _Parts(dict[type, tuple[Callable[[Any], tuple[Any, ...]], tuple[str, ...]]]):
    """Of a kind of value: what gives all that may hold text in it, and the names of the fields that hold JSON."""

    def __missing__(self, kind: type) -> tuple[Callable[[Any], tuple[Any, ...]], tuple[str, ...]]:
        self[kind] = _getter(kind), tuple(name for name, _ in _texts(kind) if name in JSON)
        return self[kind]


_PARTS = _Parts()


def _getter(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    if kind in (str, tuple):
        return lambda value: (value,)
    match _paths(kind):
        case ():
            return lambda value: ()
        case (path,):
            get = attrgetter(path)
            return lambda value: (get(value),)
        case paths:
            return attrgetter(*paths)


def _paths(kind: Any) -> tuple[str, ...]:
    """The fields to look through; in place of one that is always a verdict, those of the verdict."""
    paths: list[str] = []
    for name, _ in _texts(kind):
        hint = get_type_hints(kind)[name]
        paths += [f"{name}.{path}" for path in _paths(Verdict)] if hint is Verdict else [name]
    return tuple(paths)


def _walk(value: Any, edit: Edit) -> Any:
    """`value` itself where nothing in it changes."""
    kind: Any = type(value)
    if kind is str:
        return edit(value)
    if kind is tuple:
        return _items(value, edit)
    changes = {}
    for name, walk in _texts(kind):
        old = getattr(value, name)
        if old:
            new = walk(old, edit)
            if new is not old:
                changes[name] = new
    return replace(value, **changes) if changes else value


def _items(values: tuple[Any, ...], edit: Edit) -> tuple[Any, ...]:
    changed = False
    items = []
    for value in values:
        item = _walk(value, edit)
        changed = changed or item is not value
        items.append(item)
    return tuple(items) if changed else values


@lru_cache
def _texts(kind: Any) -> tuple[tuple[str, Callable[[Any, Edit], Any]], ...]:
    """The fields of a dataclass to look through, and how."""
    if not is_dataclass(kind):
        return ()
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.name not in NAMES and _holds_text(hints[field.name])]
    return tuple((name, _json if name in JSON else _walk) for name in names)


def _holds_text(hint: Any) -> bool:
    return hint is str or bool(_texts(hint)) or any(_holds_text(part) for part in get_args(hint))


def _json(text: str, edit: Edit) -> str:
    if len(text) < FILE and edit(text) is text:
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return edit(text)
    changed = _value(value, edit)
    return text if changed == value else json.dumps(changed)


def _value(value: Any, edit: Edit) -> Any:
    match value:
        case str():
            return _file(value) or edit(value)
        case list():
            return [_value(item, edit) for item in value]
        case {"type": "text", "text": str(text)}:
            return {**value, "text": edit(text)}
        case dict():
            return {key: item if key in WORDS else _value(item, edit) for key, item in value.items()}
        case _:
            return value


def _file(text: str) -> str:
    """What stands for a file in base64; empty when `text` is none."""
    url = DATA_URL.match(text)
    if not url and (len(text) < FILE or not BASE64.fullmatch(text)):
        return ""
    data = text[url.end() :] if url else text
    try:
        raw = base64.b64decode(data.translate({45: "+", 95: "/"}) + "==")
    except (binascii.Error, ValueError):
        raw = data.encode("utf-8", "surrogatepass")
    return f"sha256:{sha256(raw).hexdigest()} ({len(raw)} bytes)"
