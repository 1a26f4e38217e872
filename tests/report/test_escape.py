import pytest
from rich.console import Console

from alignstack.report.escape import cell, excerpt, visible

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\U000e0041\u00ad\u2028\u2029"


@pytest.mark.parametrize(
    "char", [*map(chr, range(32)), "\x7f", *map(chr, range(0x80, 0xA0)), *BIDI, *UNSEEN, "\ud800", "\ue000"]
)
def test_what_does_not_print_is_shown_as_an_escape_or_a_blank(char: str) -> None:
    shown = visible(f"a{char}b")
    assert char not in shown
    assert shown.isprintable()


def test_letters_of_every_script_and_emoji_stay_as_they_are() -> None:
    text = "naïve Привет 你好 שלום 😀"
    assert visible(text) == text


def test_ansi_sequences_lose_their_escape_character() -> None:
    assert visible("\x1b[31mred\x1b[0m") == "\\x1b[31mred\\x1b[0m"


def test_backslashes_typed_by_the_user_are_not_doubled() -> None:
    assert visible(r"C:\x1b") == r"C:\x1b"


def test_an_excerpt_is_one_line_and_ends_in_an_ellipsis_when_cut() -> None:
    assert excerpt("one\ntwo   three") == "one ⏎ two three"
    assert excerpt("x" * 50, limit=10) == "x" * 9 + "…"
    assert excerpt("x" * 10, limit=10) == "x" * 10


def test_an_excerpt_of_ten_megabytes_reads_only_its_beginning() -> None:
    assert len(excerpt("\x1b" * 10_000_000, limit=20)) == 20


def test_rich_markup_in_a_cell_stays_text() -> None:
    console = Console(width=60, record=True, force_terminal=True)
    console.print(cell("[bold red]boo[/] [link=x]y[/link] [/nothing]"))
    assert "[bold red]boo[/] [link=x]y[/link] [/nothing]" in console.export_text()
