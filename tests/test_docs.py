"""Documentation cannot drift: every code block runs, links lead somewhere, every name is explained.

In a page, `<!-- file: NAME -->` before a block writes it to a file first; blocks that hold a stack load; `alignstack …`
lines run, in order, in one folder per page, and must exit with 0 or the code in a trailing `# exits with N`;
`<!-- not run: reason -->` excuses a block.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- (?P<mark>file|not run): (?P<value>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    language: str
    text: str
    file: str | None
    excused: bool


def blocks(page: Path) -> list[Block]:
    return [
        Block(
            language=match["language"],
            text=match["text"],
            file=match["value"] if match["mark"] == "file" else None,
            excused=match["mark"] == "not run",
        )
        for match in FENCE.finditer(page.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    named = [block for block in blocks(page) if block.file]
    for block in reversed(named):  # blocks may name files that stand further down; of two texts of a file the first
        write(block)
    for block in blocks(page):
        write(block)
        if not block.excused:
            run(block)


def write(block: Block) -> None:
    if block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")


def run(block: Block) -> None:
    match block.language:
        case "yaml":
            load(block)
        case "json":
            json.loads(block.text)
        case "jsonl":
            for line in block.text.splitlines():
                json.loads(line)
        case "python":
            exec(compile(block.text, block.file or "<docs>", "exec"), {"__name__": "docs"})
        case "console" | "bash":
            for line in block.text.splitlines():
                command(line)


def load(block: Block) -> None:
    """YAML that looks like a stack must load as one, like a policy as one."""
    data = yaml.safe_load(block.text)
    path = Path(block.file or "block.yaml")
    path.write_text(block.text, encoding="utf-8")
    if "layers" in data or "model" in data:
        from alignstack.engine.config import load_stack

        load_stack(path.absolute())
    elif "hazards" in data or "principles" in data:
        from alignstack import policy

        policy.load(path)


def command(line: str) -> None:
    if not re.match(r"(.*\| )?alignstack ", line):
        return
    shell, _, expected = line.partition("# exits with ")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False
    )
    assert done.returncode == int(expected or 0), f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[1:] if page.name != "index.md" and f"({page.name})" not in index]


def test_generated_pages_are_current(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "reference.py", tmp_path], check=True)
    written = sorted(tmp_path.iterdir())
    assert [page.name for page in written] == ["cli.md", "stack.md"]
    for page in written:
        current = (ROOT / "docs" / page.name).read_text(encoding="utf-8")
        assert current == page.read_text(encoding="utf-8"), f"docs/{page.name} is out of date; run `make docs`"


@pytest.mark.parametrize("group", ["layers", "models", "judges", "attacks"])
def test_every_plugin_is_documented(group: str) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = {entry.name for entry in entry_points(group=f"alignstack.{group}")}
    assert names
    assert not [name for name in names if f"`{name}`" not in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_excuses_give_a_reason(page: Path) -> None:
    assert all(len(reason) > 10 for reason in re.findall(r"<!-- not run: (.+?) -->", page.read_text(encoding="utf-8")))
