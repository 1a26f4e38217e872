"""Documentation cannot drift: every code block runs, links lead somewhere, every name is explained.

In a page, `<!-- file: NAME -->` before a block writes it to a file first; blocks that hold a stack load; `alignstack …`
lines run, in order, in one folder per page, and must exit with 0 or the code in a trailing `# exits with N`;
`<!-- not run: reason -->` excuses a block, Python must parse even so.

`alignstack serve` goes on running to the end of the page or the next such line; what follows can use it by the address
that the page gives (127.0.0.1:8080), also with `curl`, whose answers must be successes. Model servers that pages put it
in front of are stood in for by a gateway with a scripted model.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
GATEWAY = "127.0.0.1:8080"
MODEL_SERVERS = re.compile(r"http://127\.0\.0\.1:(?:8000|8081|11434)\b|https://api\.(?:openai|anthropic)\.com\b")
STAND_IN = 'model: {use: scripted, default: "Flour, water, salt and yeast."}'
START_S = 60.0
FENCE = re.compile(
    r"(?:<!-- (?P<mark>file|not run): (?P<value>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    language: str
    text: str
    file: str | None
    excused: bool


def blocks(text: str) -> list[Block]:
    return [
        Block(
            language=match["language"],
            text=match["text"],
            file=match["value"] if match["mark"] == "file" else None,
            excused=match["mark"] == "not run",
        )
        for match in FENCE.finditer(text)
    ]


class Gateway:
    """What `alignstack serve` lines of one page start, one after the other, on one free port."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, line: str) -> None:
        self.stop()
        port = self.address.partition(":")[2]
        with open("gateway.log", "w") as log:
            self.process = subprocess.Popen(["bash", "-c", f"exec {line} --port {port}"], env=environment(), stderr=log)
        end = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < end, Path("gateway.log").read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"http://{self.address}/health", timeout=5).status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(START_S)
            self.process = None


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Speaks the APIs of OpenAI and Anthropic, like the servers that it stands in for."""
    folder, server = tmp_path_factory.mktemp("model"), Gateway()
    (folder / "stack.yaml").write_text(STAND_IN)
    server.start(f"env ALIGNSTACK_HOME={folder} alignstack serve --stack {folder}/stack.yaml")
    yield f"http://{server.address}"
    server.stop()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_a_page_runs(
    page: Path, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = page.read_text(encoding="utf-8").replace(GATEWAY, gateway.address)
    if MODEL_SERVERS.search(text) and "\nalignstack serve" in text:
        text = MODEL_SERVERS.sub(request.getfixturevalue("model_server"), text)
    for name in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(name, "from-the-environment")
    named = [block for block in blocks(text) if block.file]
    for block in reversed(named):  # blocks may name files that stand further down; of two texts of a file the first
        write(block)
    for block in blocks(text):
        write(block)
        if not block.excused:
            run(block, gateway)
        elif block.language == "python":
            compile(block.text, "<docs>", "exec")


def write(block: Block) -> None:
    if block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")


def run(block: Block, gateway: Gateway) -> None:
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
            for line in block.text.replace("\\\n", " ").splitlines():
                command(line, gateway)


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


def command(line: str, gateway: Gateway) -> None:
    if line.startswith("alignstack serve") and "# exits with" not in line:
        gateway.start(line)
    elif line.startswith("curl ") and gateway.address in line:
        curl(shlex.split(line, comments=True)[1:])
    elif re.match(r"(.*\| )?alignstack ", line):
        shell, _, expected = line.partition("# exits with ")
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment(), check=False)
        assert done.returncode == int(expected or 0), f"{line}\n{done.stdout}\n{done.stderr}"


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def curl(words: list[str]) -> None:
    """Machines need not have curl: the request that such a line makes, with the few options that pages use."""
    request = urllib.request.Request(next(word for word in words if word.startswith("http")))
    for option, value in pairwise(words):
        if option == "-H":
            request.add_header(*value.split(": ", 1))
        elif option == "-d":
            request.data = json.dumps(json.loads(value)).encode()
    assert {word for word in words if word.startswith("-")} <= {"-H", "-d", "-s", "-N", "-i"}
    urllib.request.urlopen(request, timeout=START_S).read()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    names = [page.relative_to(DOCS).as_posix() for page in PAGES[1:]]
    assert not [name for name in names if name != "index.md" and f"({name})" not in index]


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
