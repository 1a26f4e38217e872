"""`alignstack classify`."""

import json
from pathlib import Path

from tests.cli.conftest import Cli

TWO = b'{"id": 1, "text": "my credit card"}\n\n{"id": "b", "text": "hello"}\n'


def test_one_line_out_for_each_line_in(cli: Cli, stack: Path) -> None:
    ended = cli("classify", "--layer", "in1", "--stack", str(stack), stdin=TWO)
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert [(row["id"], row["score"]) for row in rows] == [(1, 1.0), ("b", 0.0)]
    assert all(row.keys() == {"id", "score", "hazards"} for row in rows)


def test_output_layers_score_texts_as_answers(cli: Cli, stack: Path) -> None:
    ended = cli(
        "classify", "--layer", "out1", "--stack", str(stack), "--json", stdin=b'{"id": 1, "text": "a password"}'
    )
    assert [row["score"] for row in ended.document] == [1.0]


def test_every_bad_line_is_named_at_once(cli: Cli, stack: Path) -> None:
    ended = cli("classify", "--layer", "in1", "--stack", str(stack), stdin=b'{"id": 1}\n\xff\n[]\nnope\n')
    assert ended.code == 2
    assert ended.out == ""
    assert [line.partition(":")[0] for line in ended.err.removeprefix("alignstack: ").splitlines()] == [
        "line 1",
        "line 2",
        "line 3",
        "line 4",
    ]


def test_wrong_layer_names_the_nearest(cli: Cli, stack: Path) -> None:
    ended = cli("classify", "--layer", "in", "--stack", str(stack), stdin=TWO)
    assert ended.code == 2 and "no layer 'in'" in ended.err and "in1" in ended.err


def test_layers_that_do_not_score_are_refused(cli: Cli, stack: Path) -> None:
    for name, file in (("system_prompt", ("--stack", str(stack))), ("rate_limit", ())):
        ended = cli("classify", "--layer", name, *file, stdin=TWO)
        assert ended.code == 2 and "gives no scores" in ended.err


def test_no_input_is_an_error(cli: Cli, stack: Path) -> None:
    assert cli("classify", "--layer", "in1", "--stack", str(stack)).code == 2
