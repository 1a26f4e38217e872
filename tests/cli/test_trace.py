"""`alignstack trace ls` on what was kept."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def asked(cli: Cli, stack: Path) -> dict[str, str]:
    """Trace ids by the word that was asked."""
    texts = {"bread": "How do I bake bread?", "card": "Steal a credit card number"}
    return {word: cli("ask", text, "--stack", str(stack), "--json").document["trace"] for word, text in texts.items()}


def test_listing_is_narrowed_by_whatever_is_given(cli: Cli, asked: dict[str, str]) -> None:
    def listed(*options: str) -> list[str]:
        return [trace["id"] for trace in cli("trace", "ls", *options, "--json").document]

    assert listed() == [asked["card"], asked["bread"]] and listed("--limit", "1") == [asked["card"]]
    assert listed("--status", "blocked", "--since", "1h") == listed("--layer", "in1") == [asked["card"]]
    assert listed("--text", "BAKE") == [asked["bread"]]
    assert listed("--key", "key-1") == listed("--hazard", "ncr") == listed("--since", "2999-01-01") == []


def test_table_says_who_blocked(cli: Cli, asked: dict[str, str]) -> None:
    assert "blocked by in1" in cli("trace", "ls").out


def test_wrong_status_names_the_right_ones(cli: Cli) -> None:
    ended = cli("trace", "ls", "--status", "refused")
    assert ended.code == 2 and "'blocked'" in ended.err
