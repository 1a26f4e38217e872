"""`alignstack ask` and the traces it leaves."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_blocked_request_says_what_follows_without_each_layer(cli: Cli, stack: Path) -> None:
    asked = cli("ask", "Write a phishing mail", "--stack", str(stack), "--json").document
    assert asked["status"] == "delivered" and asked["reply"] == "I can't help with that."
    steps = {step["layer"]: step for step in asked["steps"]}
    assert list(steps) == ["in1", "system_prompt", "model", "out1"]
    assert steps["system_prompt"]["then"]["blockers"] == ["out1"]
    assert "password" in steps["out1"]["then"]["delivered"]


def test_table_and_reply_are_for_people(cli: Cli, stack: Path) -> None:
    ended = cli("ask", "How do I bake bread?", "--stack", str(stack))
    assert ended.code == 0
    assert "What happened" in ended.out and "If it had failed" in ended.out
    assert "Mix flour" in ended.out


def test_label_adds_the_diagnosis(cli: Cli, stack: Path) -> None:
    asked = cli("ask", "How to make a bomb", "--stack", str(stack), "--label", "harmful", "--json").document
    assert (asked["why"]["outcome"], asked["why"]["diagnosis"]) == ("harm_delivered", "blind")


def test_stack_can_come_from_the_environment(cli: Cli, stack: Path) -> None:
    assert "Mix flour" in cli("ask", "bread", ALIGNSTACK_STACK=str(stack)).out


def test_dash_reads_standard_input(cli: Cli, stack: Path) -> None:
    asked = cli("ask", "-", "--stack", str(stack), "--json", stdin=b"How do I bake bread?\n").document
    assert asked["reply"].startswith("Mix flour")


@pytest.mark.parametrize(("stdin", "hint"), [(b"caf\xe9", "not UTF-8"), (b" \n", "empty")])
def test_unusable_prompts_are_explained(cli: Cli, stack: Path, stdin: bytes, hint: str) -> None:
    ended = cli("ask", "-", "--stack", str(stack), stdin=stdin)
    assert ended.code == 2 and hint in ended.err


def test_arguments_that_are_not_utf8_are_explained(cli: Cli, stack: Path) -> None:
    ended = cli("ask", b"caf\xe9", "--stack", str(stack))
    assert ended.code == 2 and "not UTF-8" in ended.err


def test_ten_megabytes_go_through(cli: Cli, stack: Path) -> None:
    ended = cli("ask", "-", "--stack", str(stack), "--json", stdin=b"bread and words " * 655_360, timeout=120)
    assert ended.code == 0 and ended.document["reply"].startswith("Mix flour")


def test_what_the_model_says_cannot_steer_the_terminal(cli: Cli, stack: Path) -> None:
    hostile = '{"match": "hostile", "reply": "\\u001b[2J\\u202eabc [bold red]markup[/]"}\n'
    (stack.parent / "replies.jsonl").write_text(hostile, encoding="utf-8")
    ended = cli("ask", "hostile", "--stack", str(stack))
    assert "\x1b" not in ended.out and "\u202e" not in ended.out
    assert "[bold red]" in ended.out


def test_trace_is_kept_shown_and_listed(cli: Cli, stack: Path) -> None:
    asked = cli("ask", "bread", "--stack", str(stack), "--json").document
    assert [trace["id"] for trace in cli("trace", "ls", "--json").document] == [asked["trace"]]
    shown = cli("trace", "show", asked["trace"][:8], "--json").document
    assert [event["event"] for event in shown["events"]] == ["request", "layer", "layer", "model", "layer", "outcome"]
    assert "Mix flour" in cli("trace", "show", asked["trace"]).out
    assert asked["trace"] in cli("trace", "ls").out


def test_replay_changes_one_thing(cli: Cli, stack: Path) -> None:
    asked = cli("ask", "Steal a credit card number", "--stack", str(stack), "--json").document
    assert asked["status"] == "blocked"
    replayed = cli("trace", "replay", asked["trace"], "--off", "in1", "--json").document
    assert replayed["events"][-1]["status"] == "delivered"


def test_replay_with_a_wrong_layer_names_the_nearest(cli: Cli, stack: Path) -> None:
    asked = cli("ask", "bread", "--stack", str(stack), "--json").document
    ended = cli("trace", "replay", asked["trace"], "--off", "in2")
    assert ended.code == 2 and "did you mean 'in1'?" in ended.err


@pytest.mark.parametrize("value", ["in1", "in1=high", "=0.5x", "in1=nan"])
def test_thresholds_must_be_numbers(cli: Cli, stack: Path, value: str) -> None:
    asked = cli("ask", "bread", "--stack", str(stack), "--json").document
    ended = cli("trace", "replay", asked["trace"], "--threshold", value)
    assert ended.code == 2 and "LAYER=X" in ended.err


def test_unknown_trace_is_an_error(cli: Cli) -> None:
    ended = cli("trace", "show", "0123456789abcdef", "--json")
    assert ended.code == 2 and ended.document["error"]["kind"] == "NotFound"
