"""Exit codes, and what is said when something is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_wrong_command_names_the_nearest_one(cli: Cli) -> None:
    ended = cli("audti")
    assert ended.code == 2
    assert "Did you mean 'audit'" in ended.err
    assert ended.out == ""


def test_errors_are_one_json_document_when_asked(cli: Cli) -> None:
    ended = cli("audit", "--json")
    assert ended.code == ended.document["exit_code"] == 2
    assert "--suite" in ended.document["error"]["message"]


def test_json_from_the_environment_counts_too(cli: Cli) -> None:
    assert cli("audit", ALIGNSTACK_JSON="1").document["exit_code"] == 2


def test_all_problems_of_a_file_come_at_once(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("verion: 1\nhazrads: {}\n", encoding="utf-8")
    ended = cli("policy", "check", "policy.yaml")
    assert ended.code == 2
    assert "did you mean 'version'?" in ended.err and "did you mean 'hazards'?" in ended.err


def test_names_that_steer_a_terminal_are_escaped(cli: Cli) -> None:
    ended = cli("policy", "check", "\x1b[2Jnone\u202e.yaml")
    assert ended.code == 2
    assert "\x1b" not in ended.err and "\u202e" not in ended.err


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"\xff\xfe\x00", "UTF-8"),
        (b"a: [1, 2", ":1: not valid YAML"),
        (b"", "empty"),
        (b"- just\n- a list\n", "mapping"),
    ],
)
def test_unreadable_yaml_is_explained(cli: Cli, tmp_path: Path, content: bytes, hint: str) -> None:
    (tmp_path / "policy.yaml").write_bytes(content)
    ended = cli("policy", "check", "policy.yaml")
    assert ended.code == 2
    assert "policy.yaml" in ended.err and hint in ended.err


def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m alignstack schema policy | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, cwd=tmp_path, check=False)
    assert done.stderr == b""
    assert done.returncode in {0, 141}


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    words = f"{sys.executable} -m alignstack {command}"
    return subprocess.run(["bash", "-c", words], capture_output=True, cwd=folder, check=False)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output_is_no_crash(stack: Path, closed: str) -> None:
    done = shell(f"ask bread --stack {stack} {closed}", stack.parent)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


def test_closed_input_is_an_empty_prompt(stack: Path) -> None:
    done = shell(f"ask - --stack {stack} <&-", stack.parent)
    assert done.returncode == 2 and b"empty" in done.stderr


@pytest.mark.parametrize("flags", ["", "--json"])
def test_a_full_disk_is_named(stack: Path, flags: str) -> None:
    done = shell(f"ask bread --stack {stack} {flags} >/dev/full", stack.parent)
    assert done.returncode == 3
    assert b"No space left" in done.stderr and b"Traceback" not in done.stderr and b"Exception" not in done.stderr


@pytest.mark.parametrize("group", [(), ("trace",), ("policy",), ("train",)])
def test_a_group_alone_shows_its_commands(cli: Cli, group: tuple[str, ...]) -> None:
    ended = cli(*group)
    assert ended.code == 2 and "Commands:" in ended.err


@pytest.mark.parametrize("argument", ["/", "missing.yaml"])
def test_stacks_that_are_no_files_are_named(cli: Cli, argument: str) -> None:
    ended = cli("ask", "bread", "--stack", argument)
    assert ended.code == 2 and argument in ended.err


def test_a_store_that_cannot_be_used_says_how_to_move_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    ended = cli("trace", "ls", ALIGNSTACK_HOME=str(tmp_path / "file" / "home"))
    assert ended.code == 2 and "ALIGNSTACK_HOME" in ended.err
