"""Puts load on one contestant and says what came of it."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upstream import TEXT

HERE = Path(__file__).resolve().parent
HEADERS = {
    "content-type": "application/json",
    "authorization": "Bearer sk-bench-9f4c1e7a2b8d4f60a3c5e7d9b1f2a4c6",
}
TICKS = os.sysconf("SC_CLK_TCK")
Measured = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    name: str
    stream: bool
    at_once: int
    pace_ms: float = 0
    """Between two tokens of the upstream."""


SCENARIOS = (
    Scenario(name="whole c1", stream=False, at_once=1),
    Scenario(name="whole c32", stream=False, at_once=32),
    Scenario(name="stream c1", stream=True, at_once=1),
    Scenario(name="stream c32", stream=True, at_once=32),
    Scenario(name="paced c32", stream=True, at_once=32, pace_ms=10),
)


def measure(scenario: Scenario, url: str, pid: int, seconds: int) -> Measured:
    """`rate` per second, `cpu_ms` for each answer (user and system time of the process and its children), `rss_mb`,
    `bad` answers, and latencies in milliseconds. Raises RuntimeError when there was no good answer at all."""
    before = cpu_seconds(pid)
    result = (streams if scenario.stream else wholes)(url, scenario.at_once, seconds)
    used = cpu_seconds(pid) - before
    if not result["n"]:
        raise RuntimeError(f"{url} gave no good answer in {seconds} s of {scenario.name!r}")
    return {**result, "rate": result["n"] / result["seconds"], "cpu_ms": 1000 * used / result["n"], "rss_mb": rss(pid)}


def wholes(url: str, at_once: int, seconds: int) -> dict[str, float]:
    script = ("-s", str(HERE / "post.lua"), url)
    return run("wrk", "-t1", f"-c{at_once}", f"-d{seconds}s", "--timeout", "30s", *script)


def streams(url: str, at_once: int, seconds: int) -> dict[str, float]:
    return run(sys.executable, str(HERE / "sse_client.py"), url, str(at_once), str(seconds))


def run(*argv: str) -> dict[str, float]:
    """The JSON document in the last line of what a program prints."""
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        children = task / "children"
        found += [one for child in children.read_text().split() for one in family(int(child))]
    return found


def cpu_seconds(pid: int) -> float:
    return sum(_ticks(one) for one in family(pid)) / TICKS


def _ticks(pid: int) -> int:
    # The name, in brackets, may itself hold spaces and brackets. Then: state is field 0, user time 11, system time 12.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def rss(pid: int) -> float:
    """Megabytes."""
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def guards(url: str) -> None:
    """The word that every contestant's guard looks for is refused, in whatever way. Raises RuntimeError if not."""
    try:
        text = ask(url, False, whole_text, "Say FORBIDDEN.")
    except urllib.error.HTTPError:
        return
    if text == TEXT:
        raise RuntimeError(f"{url} lets the forbidden word through: its guard is not on")


def check(url: str) -> None:
    """Both ways of asking give exactly the upstream's words. Raises RuntimeError; OSError when there is no answer."""
    for read, stream in ((whole_text, False), (streamed_text, True)):
        text = ask(url, stream, read)
        if text != TEXT:
            raise RuntimeError(f"{url} (stream: {stream}) answers {text[:200]!r}, not what the upstream said")


def ask(url: str, stream: bool, read: Callable[[bytes], str], words: str = "Tell me a short story.") -> str:
    message = {"role": "user", "content": words}
    body = json.dumps({"model": "mock", "stream": stream, "messages": [message], "max_tokens": 128}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body, HEADERS), timeout=30) as answer:
        return read(answer.read())


def whole_text(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def streamed_text(body: bytes) -> str:
    data = [line.removeprefix("data:").strip() for line in body.decode().splitlines() if line.startswith("data:")]
    events: list[dict[str, Any]] = [json.loads(line) for line in data if line != "[DONE]"]
    choices = [choice for event in events for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
