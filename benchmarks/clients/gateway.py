"""A gateway as users start it, in a home of its own, and what it says of the requests that it had."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STACK = Path(__file__).resolve().parent / "stack.yaml"
ADDRESS = re.compile(r"^serving .* on (http://127\.0\.0\.1:\d+)/v1$", re.M)
PATIENCE_S = 60.0
EVERY = 1_000_000
"""Traces; more than a client asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A folder for the stores of one gateway."""

    folder: Path
    style: str
    """`on_block` of the stack."""

    @property
    def env(self) -> Mapping[str, str]:
        return {**os.environ, "ALIGNSTACK_HOME": str(self.folder), "ON_BLOCK": self.style, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The ledger's sums, as `alignstack usage` gives them."""

    requests: int
    delivered: int
    refused: int
    """The model itself declined."""
    blocked: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, by its trace or by what a client remembers of it."""

    text: str
    """Of the last turn of the user."""
    blocked: bool


@contextmanager
def serving(home: Home) -> Iterator[str]:
    """Gives the address. At the end the gateway has written down all it had."""
    log = home.folder / "gateway.log"
    argv = (sys.executable, "-m", "alignstack", "serve", "--stack", str(STACK), "--port", "0")
    with log.open("wb") as file:
        process = subprocess.Popen(argv, env=home.env, stdout=file, stderr=file)
    try:
        yield _address(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Raises RuntimeError with the log."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        found = ADDRESS.search(log.read_text(errors="replace"))
        if found and _ready(found[1]):
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"the gateway did not start:\n{log.read_text(errors='replace')}")


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def counted(home: Home) -> Counted:
    lines = _said(home, "usage", "--since", "24h")["usage"]
    return Counted(**{name: sum(line[name] for line in lines) for name in Counted.__slots__})


def traced(home: Home) -> list[Asked]:
    return [_asked(trace["events"]) for trace in _said(home, "trace", "ls", "--limit", str(EVERY))]


def _asked(events: list[dict[str, Any]]) -> Asked:
    request = next(event for event in events if event["event"] == "request")
    outcome = next(event for event in events if event["event"] == "outcome")
    text = next(turn["content"] for turn in reversed(request["messages"]) if turn["role"] == "user")
    return Asked(text=text, blocked=outcome["status"] in ("blocked", "cut"))


def _said(home: Home, *words: str) -> Any:
    argv = (sys.executable, "-m", "alignstack", *words, "--json")
    return json.loads(subprocess.run(argv, env=home.env, check=True, stdout=subprocess.PIPE).stdout)
