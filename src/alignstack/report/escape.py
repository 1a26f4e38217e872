"""Text that a model or a user wrote, made safe to show.

Stops: control characters and ANSI sequences, bidirectional overrides, zero-width and tag characters, line and paragraph
separators, lone surrogates, unassigned and private characters, and (through `cell`) rich markup.
Does not stop: letters that look like other letters. HTML quoting is the template's task, not this module's.
"""

import unicodedata

from rich.text import Text

EXCERPT = 160
"""Characters of a text shown in a report unless the caller says otherwise; chosen by hand: two lines of a table."""

_BREAKS = {"\n": " ⏎ ", "\t": " "}


def visible(text: str) -> str:
    """`text` on one line, with every character that does not print written as its escape, for example `\\u202e`."""
    return "".join(map(_visible, text.replace("\r\n", "\n")))


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """At most `limit` characters of `visible(text)`, blanks collapsed, ending in `…` when something was left out."""
    line = " ".join(visible(text[: limit * 4]).split())
    cut = len(line) > limit or len(text) > limit * 4
    return line[: limit - 1].rstrip() + "…" if cut else line


def cell(text: str, style: str = "", limit: int = EXCERPT) -> Text:
    """An excerpt for a rich table: never parsed as markup."""
    return Text(excerpt(text, limit), style=style)


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    if unicodedata.category(char) == "Zs":
        return " "
    return _BREAKS.get(char) or char.encode("unicode_escape").decode("ascii")
