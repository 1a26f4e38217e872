"""The texts to check in place of a text: what a reader or a model would make of it.

`readings` undoes disguises: Unicode look-alikes, invisible characters, and encodings that a model can read. A decoding
counts only when it reads like language and the encoded run is long, so ordinary text has exactly one reading. The
model always sees the original bytes; only the layers that check text read these.

Stops: full-width and styled letters, Cyrillic and Greek look-alikes, accents, zero-width, bidi and tag characters,
base64, hex, URL, HTML and backslash escapes, rot13, leetspeak, reversed text, s p a c e d words; two of these nested.
Does not stop: encryption, ciphers with a key, other languages, pictures of text, words cut up and explained ("let x be
the first half …"), encodings beyond the first 65 536 characters.
"""

# ruff: noqa: RUF001 (look-alike letters are the subject)

import base64
import binascii
import html
import re
import string
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

MAX_READINGS = 8
"""Never more texts than this."""
MAX_DECODED = 65_536
"""Characters in which encodings are looked for."""
CONTEXT = 256
"""Characters before what is new on a running stream that layers read again, those that can choose: the same number for
all of them, so that they share the readings. Chosen by hand: a paragraph, and with 16 new tokens (about 100 characters)
still short enough to be judged as one text."""
MAX_RUNS = 32
"""Encoded runs tried per text and encoding."""
MAX_PHRASES = 1_000
"""A text with more of the two characters that stand for whole phrases is read without them: it would grow 18-fold."""


def readings(text: str) -> tuple[str, ...]:
    """The distinct texts to check: the folded text first, at most `MAX_READINGS` of them. Never raises.

    When folding changed letters, the text with its own letters is a reading too, so that patterns in other scripts
    still match.
    """
    visible = _visible(text)
    found = dict.fromkeys((_plain(visible), visible))
    if not text.isascii():
        _decode_into(found, _tags(text[:MAX_DECODED]))
    done = 0
    for _ in range(2):  # two encodings, one inside the other: more are not seen in the wild and cost time
        fresh = list(found)[done:]
        done = len(found)
        for reading in fresh:
            start = reading[:MAX_DECODED]
            for decode in _possible(start):
                _decode_into(found, decode(start))
    return tuple(found)


def _decode_into(found: dict[str, None], decoded: Iterator[str]) -> None:
    for text in decoded:
        if len(found) >= MAX_READINGS:
            return
        found.setdefault(fold(text))


# ---------------------------------------------------------------- folding

INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
"""Control, format, filler, variation and tag characters: nobody sees them."""

_CYRILLIC = ("авсԁеҽғԍһіјкӏмпорԛгѕтцѵԝхуүАВСЕНІЈКМОРЅТХУҮнь", "abcdeefghijklmnopqrstuvwxyyABCEHIJKMOPSTXYYhb")
_GREEK = ("αβϲεηικνορστυχωγΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "abcenikvopotuxwyABEZHIKMNOPTYX")
_LATIN = ("ıȷɑɡɩłŁøØđħŧᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "ijagilLoOdhtabcdefghijklmnoprstuvwyz")
"""Look-alikes, and what they look like; the last row also holds small capitals."""
_FOLD = str.maketrans(*("".join(part) for part in zip(_CYRILLIC, _GREEK, _LATIN, strict=True)))
_MARKS = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")
_FOREIGN = re.compile(r"(?<![^\W\d_])[A-Za-z]*[^\W\d_A-Za-z][^\W\d_]*")
"""Words that are not all ASCII. The first condition keeps it linear: no word is tried twice."""
_STRAIGHT = dict(zip("‘’‚‛“”„‟′″‐‑‒–—―−", "''''\"\"\"\"'\"-------", strict=True))
_QUOTE = re.compile(f"[{''.join(_STRAIGHT)}]")
_PHRASES = re.compile("[\ufdfa\ufdfb]")
"""Two characters that stand for 18 and 8; no other stands for more than 6."""
_PIECE = re.compile(rf"(?s).{{1,{MAX_DECODED}}}(?=[ \n]|\Z)|.{{1,{MAX_DECODED}}}")
_CONTROLS = bytes(code for code in range(128) if INVISIBLE.match(chr(code)))


def fold(text: str) -> str:
    """Compatibility form, invisible characters dropped, look-alike words and accents turned into plain Latin letters.

    A word is changed only when all of it becomes ASCII, so most Russian and Greek words stay what they are. Idempotent.
    """
    return _plain(_visible(text))


def _plain(visible: str) -> str:
    return visible if visible.isascii() else _piecewise(_plain_piece, visible)


def _plain_piece(visible: str) -> str:
    bare = _MARKS.sub("", unicodedata.normalize("NFKD", visible))
    return _visible_piece(_FOREIGN.sub(_as_latin, bare))


def _visible(text: str) -> str:
    """NFKC without the characters that nobody sees, quotes and dashes straightened. Idempotent."""
    if text.isascii():  # bytes: several times faster, and most texts are of this kind
        return text.encode().translate(None, _CONTROLS).decode()
    if text.count("\ufdfa") + text.count("\ufdfb") > MAX_PHRASES:
        text = _PHRASES.sub(" ", text)
    return _piecewise(_visible_piece, text)


def _visible_piece(text: str) -> str:
    text = _QUOTE.sub(lambda match: _STRAIGHT[match[0]], INVISIBLE.sub("", text))
    if text.isascii():
        return text
    text = INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return unicodedata.normalize("NFKC", text)


def _piecewise(change: Callable[[str], str], text: str) -> str:
    """In pieces that end before a space, as long as there are any: of a long text in another script other threads get
    their turn between two pieces, and no call takes long."""
    return change(text) if len(text) <= MAX_DECODED else "".join(map(change, _PIECE.findall(text)))


def _as_latin(match: re.Match[str]) -> str:
    folded = match[0].translate(_FOLD)
    return folded if folded.isascii() else match[0]


# ---------------------------------------------------------------- does it read like language?

COMMON = frozenset(
    """about all an and any are as at be been but by can could do does for from get give go had has have he her him his
    how if in into is it its just know like make me more my no not of on one or our out over people say she should so
    some step tell than that the their them then there they this to up us use want was way we were what when where which
    who why will with without would write you your create explain help instructions describe someone""".split()
)  # function words and the verbs of requests; chosen by hand
_WORD = re.compile(r"[A-Za-z]{2,}")


def _common(text: str) -> tuple[int, float]:
    """Number and share in [0, 1] of the words of two letters and more that are common English ones."""
    words = _WORD.findall(text.lower())
    n = sum(word in COMMON for word in words)
    return n, n / max(1, len(words))


def _is_prose(text: str) -> bool:
    """Printable, and mostly letters and spaces: chance bytes almost never are."""
    if len(text) < 6 or not all(c.isprintable() or c in "\n\r\t" for c in text):
        return False
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return letters >= 0.75 * len(text)


# ---------------------------------------------------------------- decoders: each yields texts to fold and check

Decoder = Callable[[str], Iterator[str]]

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}(?:\r?\n[A-Za-z0-9+/_-]{16,})*={0,2}")
_HEX = re.compile(r"(?:(?:\\x|0x)?[0-9A-Fa-f]{2}[ :,]?){8,}")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}[^%\s]{0,12}){3,}")
_ENTITY = re.compile(r"&(?:#\d{2,7}|#[xX][0-9A-Fa-f]{2,6}|[A-Za-z]{2,8});")
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})")
_SEGMENT = re.compile(r"[^\n:.!?\"“”]{12,}")
_ROT13 = {ord(c): chr(ord("Aa"[c.islower()]) + (ord(c) % 32 + 12) % 26) for c in string.ascii_letters}
_ROT13_WORDS = frozenset(word.translate(_ROT13) for word in COMMON) - COMMON
_REVERSED_WORDS = frozenset(word[::-1] for word in COMMON) - COMMON
_LEET = str.maketrans("013457@$!|", "oieastasil")
_LEET_L = str.maketrans("013457@$!|", "oleastasil")
_LEET_WORD = re.compile(r"(?<![A-Za-z0-9@$!|._/+=-])[A-Za-z0-9@$!|]{1,24}(?![A-Za-z0-9@$|_/+=-]|[.][A-Za-z0-9])")
_LEET_CLEAR = re.compile(r"[A-Za-z][013457@$!|]{1,3}[A-Za-z]")
_SPACED = re.compile(r"(?<![A-Za-z])(?:[A-Za-z]([ .\-_*]))(?:[A-Za-z]\1){2,}[A-Za-z](?![A-Za-z])")
_TAGS = re.compile("[\U000e0020-\U000e007e]{4,}")


def _runs(text: str, pattern: re.Pattern[str], decode: Callable[[str], str | None]) -> Iterator[str]:
    """The text with every run that decodes replaced in place, then each decoded run alone."""
    alone: list[str] = []

    def put(match: re.Match[str]) -> str:
        decoded = decode(match[0])
        if decoded is None:
            return match[0]
        alone.append(decoded)
        return f" {decoded.strip()} "

    replaced = pattern.sub(put, text, count=MAX_RUNS)
    if alone:
        yield replaced
        yield from (run for run in alone[:2] if len(run) >= 12 and run.strip() != replaced.strip())


def _base64(text: str) -> Iterator[str]:
    return _runs(text, _BASE64, _from_base64)


def _from_base64(run: str) -> str | None:
    body = re.sub(r"\s", "", run).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        decoded = base64.b64decode(body[: len(body) - (len(body) % 4 == 1)] + "=" * (-len(body) % 4)).decode()
    except (binascii.Error, ValueError):
        return None
    return decoded if _is_prose(decoded) else None


def _hex(text: str) -> Iterator[str]:
    return _runs(text, _HEX, _from_hex)


def _from_hex(run: str) -> str | None:
    try:
        decoded = bytes.fromhex(re.sub(r"\\x|0x|[ :,]", "", run)).decode()
    except ValueError:
        return None
    return decoded if _is_prose(decoded) else None


def _percent(text: str) -> Iterator[str]:
    if _PERCENT.search(text):
        yield unquote(text, errors="ignore")


def _entities(text: str) -> Iterator[str]:
    if _ENTITY.search(text):
        yield html.unescape(text)


def _escapes(text: str) -> Iterator[str]:
    if len(_ESCAPE.findall(text)) >= 3:
        yield _ESCAPE.sub(lambda m: chr(int(m[1] or m[2], 16)), text)


def _segments(text: str, decode: Callable[[str], str], disguised: frozenset[str]) -> Iterator[str]:
    """The text with every segment replaced that reads like English only after `decode`. Such a segment holds a common
    word in disguise that is not a common word itself."""

    def put(match: re.Match[str]) -> str:
        if disguised.isdisjoint(_WORD.findall(match[0].lower())):
            return match[0]
        _, before = _common(match[0])
        if before > 0.15:
            return match[0]
        n, after = _common(decoded := decode(match[0]))
        return decoded if n >= 3 and after >= 0.25 else match[0]

    replaced = _SEGMENT.sub(put, text)
    if replaced != text:
        yield replaced


def _rot13(text: str) -> Iterator[str]:
    return _segments(text, lambda segment: segment.translate(_ROT13), _ROT13_WORDS)


def _reversed(text: str) -> Iterator[str]:
    return _segments(text, lambda segment: segment[::-1], _REVERSED_WORDS)


def _leetspeak(text: str) -> Iterator[str]:
    """One clear word (a digit between letters) is decoded alone; two or more turn on every word of the text."""
    clear = {word for word in _LEET_WORD.findall(text) if _LEET_CLEAR.search(word)}
    for table in (_LEET, _LEET_L) if "1" in text else (_LEET,):
        if len(clear) > 1:
            yield _LEET_WORD.sub(lambda match, table=table: match[0].translate(table), text)  # type: ignore[misc]
        elif clear:
            (word,) = clear
            yield text.replace(word, word.translate(table))


def _spaced(text: str) -> Iterator[str]:
    """`b o m b` and `b-o-m-b` as one word."""
    joined = _SPACED.sub(lambda match: match[0].replace(match[1], ""), text)
    if joined != text:
        yield joined


def _tags(text: str) -> Iterator[str]:
    """Unicode tag characters spell out hidden ASCII."""
    for match in _TAGS.findall(text)[:2]:
        yield "".join(chr(ord(c) - 0xE0000) for c in match)


# ---------------------------------------------------------------- which decoders could apply


def _kinds(*kinds: str) -> bytes:
    """A table for `bytes.translate`: a character becomes the first one of its kind, and `?` when it has none."""
    table = bytearray(b"?" * 256)
    for kind in kinds:
        for code in kind.encode():
            table[code] = ord(kind[0])
    return bytes(table)


_AS_BASE64 = _kinds(string.ascii_letters + string.digits + "+/_-")
_AS_HEX = _kinds(string.hexdigits)
_AS_WORDS = bytes(ord(chr(code).lower()) if chr(code) in string.ascii_letters else 32 for code in range(256))
_AS_ROT13, _AS_REVERSED = (frozenset(map(str.encode, words)) for words in (_ROT13_WORDS, _REVERSED_WORDS))
_DISGUISED = _AS_ROT13 | _AS_REVERSED
_AS_LOOKS = _kinds(string.ascii_letters, "013457@$!|", " .-_*")
_AS_LEET = re.compile(b"0(?<=a0)0{0,2}a")
"""Begins with the rarest character of all."""


def _possible(text: str) -> Iterator[Decoder]:
    """The decoders that could find something, in an order that is part of what `readings` gives. Each condition is a
    necessary one and takes a pass or two over bytes, so that ordinary text meets no regular expression."""
    raw = text.encode("ascii", "replace")
    if b"a" * 16 in raw.translate(_AS_BASE64):
        yield _base64
    if b"0" * 16 in raw.translate(_AS_HEX, b" :,\\x"):
        yield _hex
    if b"%" in raw and raw.count(b"%") >= 3:
        yield _percent
    if b"&" in raw:
        yield _entities
    if b"\\" in raw and raw.count(b"\\") >= 3:
        yield _escapes
    words = raw.translate(_AS_WORDS).split()
    if not _DISGUISED.isdisjoint(words):
        if not _AS_ROT13.isdisjoint(words):
            yield _rot13
        if not _AS_REVERSED.isdisjoint(words):
            yield _reversed
    looks = raw.translate(_AS_LOOKS)
    if _AS_LEET.search(looks):
        yield _leetspeak
    if b"a a a a" in looks:
        yield _spaced
