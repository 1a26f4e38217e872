"""garak, PyRIT and Inspect in front of the gateway: each one's count of blocked requests must be the gateway's own.

    python benchmarks/clients/run.py [--envs DIR] [--only garak|pyrit|inspect …] [--style refusal|error …]

Each client is installed at the first use, into a virtual environment of its own below --envs. For each client and style
a gateway starts in a folder of its own, is asked, and is stopped; then the client's own records are held against ledger
and traces. Exits with 1 when they differ, 3 when something did not run. Everything stays on this machine.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
import gateway
from gateway import Asked, Counted, Home

from alignstack.engine.config import load_stack
from alignstack.redteam.suites import demo
from alignstack.store.redact import without_secrets

HERE = Path(__file__).resolve().parent
STYLES = ("refusal", "error")
EACH = 20
"""Harmful prompts, and as many benign ones, for the clients that bring none of their own."""
PATIENCE_S = 900.0
"""For one client; garak takes half a minute where nothing else runs."""
ALONE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    client: str
    style: str
    answers: Sequence[Asked]
    """By the client's own records."""
    own: str
    """What its summary says."""
    ledger: Counted
    problems: Sequence[str]

    @property
    def blocked(self) -> int:
        return sum(answer.blocked for answer in self.answers)


def prompts() -> list[str]:
    items = demo()
    harmful = [item.plain for item in items if item.label == "harmful"]
    benign = [item.plain for item in items if item.label == "benign"]
    return harmful[:EACH] + benign[-EACH:]


def asked(client: str, style: str, envs: Path) -> Result:
    """Raises RuntimeError when gateway or client did not run to its end."""
    python = environments.python(client, envs)
    with tempfile.TemporaryDirectory() as name:
        folder, home = Path(name), Home(folder=Path(name) / "home", style=style)
        home.folder.mkdir()
        with gateway.serving(home) as url:
            said = run(client, python, folder, {"url": url, "style": style, "refusal": refusal(), "prompts": prompts()})
        answers = [Asked(**{**answer, "text": without_secrets(answer["text"])}) for answer in said["answers"]]
        ledger = gateway.counted(home)
        problems = differences(answers, ledger, gateway.traced(home))
    return Result(client=client, style=style, answers=answers, own=said["own"], ledger=ledger, problems=problems)


def refusal() -> str:
    os.environ.setdefault("ON_BLOCK", STYLES[0])
    return load_stack(gateway.STACK).refusal


def run(client: str, python: Path, folder: Path, task: Mapping[str, object]) -> Any:
    """What the client remembers. Raises RuntimeError with what it printed, unless it did all that it should."""
    (folder / "task.json").write_text(json.dumps(task))
    kept = {key: value for key, value in os.environ.items() if "API_KEY" not in key and not key.startswith("XDG_")}
    env = {**kept, **ALONE, "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        argv = (str(python), str(HERE / f"ask_{client}.py"), str(folder))
        code = subprocess.run(argv, env=env, stdout=log, stderr=log, timeout=PATIENCE_S).returncode
    if code or not (folder / "answers.json").exists():
        tail = (folder / "log").read_text(errors="replace")[-4000:]
        raise RuntimeError(f"{client} did not run to its end (exit code {code}):\n{tail}")
    return json.loads((folder / "answers.json").read_text())


def differences(answers: Sequence[Asked], ledger: Counted, traces: Sequence[Asked]) -> list[str]:
    """Empty when client, ledger and traces agree on every single request, and there was something to agree on."""
    blocked = sum(answer.blocked for answer in answers)
    sums = [
        ("requests", len(answers), ledger.requests),
        ("blocked", blocked, ledger.blocked),
        ("not blocked", len(answers) - blocked, ledger.delivered + ledger.refused),
        ("failed", 0, ledger.failed),
    ]
    found = [f"{what}: {theirs} by the client, {ours} by the ledger" for what, theirs, ours in sums if theirs != ours]
    theirs, ours = Counter(answers), Counter(traces)
    found += [f"only by the client: {one}" for one in (theirs - ours).elements()]
    found += [f"only by the traces: {one}" for one in (ours - theirs).elements()]
    if not 0 < blocked < len(answers):
        found.append(f"{blocked} of {len(answers)} blocked: agreement on that says nothing")
    return found


def table(results: Sequence[Result]) -> str:
    head = (
        "client",
        "style",
        "requests",
        "blocked by the client",
        "by the gateway",
        "declined by the model",
        "own words",
    )
    rows = [
        (one.client, one.style, len(one.answers), one.blocked, one.ledger.blocked, one.ledger.refused, one.own)
        for one in results
    ]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, default=environments.FOLDER, metavar="DIR")
    clients = tuple(environments.STEPS)
    parser.add_argument(
        "--only", nargs="+", choices=clients, default=clients, metavar="CLIENT", help=", ".join(clients)
    )
    parser.add_argument("--style", nargs="+", choices=STYLES, default=STYLES, help="of the stack's `on_block`")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    chosen = options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # what was started is stopped then too
    results = []
    for client in chosen.only:
        for style in chosen.style:
            print(f"{client}, {style} …", file=sys.stderr)
            try:
                results.append(asked(client, style, chosen.envs.absolute()))
            except (RuntimeError, subprocess.SubprocessError) as error:
                print(f"{client}, {style}: {error}", file=sys.stderr)
                return 3
            for problem in results[-1].problems:
                print(f"{client}, {style}: {problem}", file=sys.stderr)
    print(table(results))
    return 1 if any(one.problems for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
