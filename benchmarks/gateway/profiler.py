"""Where the time of one contestant goes while it is under load.

    python benchmarks/gateway/profiler.py [--name alignstack] [--scenario "whole c32"] [--seconds 8] [--top 40]

Samples the process with py-spy and prints the functions by own time and by time with all that they call, in percent of
the samples in which a thread held the interpreter lock. Time in C code counts for the Python function that called it.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import contestants
import load
import run
import table

RATE = 500
"""Samples per second; at more, the sampled process loses noticeable time."""
PACKAGES = "site-packages/"


def record(program: Path, pid: int, seconds: int, file: Path) -> "subprocess.Popen[bytes]":
    argv = (
        "record",
        "--pid",
        str(pid),
        "--duration",
        str(seconds),
        "--rate",
        str(RATE),
        "--function",
        "--gil",
        "--nonblocking",
    )
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [str(program), *argv, "--format", "raw", "--output", str(file)], stdout=quiet, stderr=quiet, stdin=quiet
    )


def stacks(text: str) -> Iterator[tuple[list[str], int]]:
    """Outermost function first."""
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        yield [short(frame) for frame in frames.split(";")], int(count)


def short(frame: str) -> str:
    """Paths from the package on."""
    name, _, path = frame.partition(" (")
    for root in (PACKAGES, "src/", "lib/python"):
        path = path.rpartition(root)[2]
    return f"{name} ({path}" if path else name


def counted(text: str) -> tuple[Counter[str], Counter[str], int]:
    """Samples by innermost function, by every function on the stack, and in all."""
    own: Counter[str] = Counter()
    below: Counter[str] = Counter()
    for frames, count in stacks(text):
        own[frames[-1]] += count
        below.update(dict.fromkeys(frames, count))
    return own, below, own.total()


def listing(title: str, counts: Counter[str], total: int, top: int) -> str:
    rows = [(f"{100 * count / total:5.1f} %", name) for name, count in counts.most_common(top)]
    return table.aligned([(title, "function"), *rows])


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=contestants.ENVIRONMENTS, metavar="DIR")
    parser.add_argument("--name", choices=list(contestants.CONTESTANTS), default="alignstack")
    scenarios = {scenario.name: scenario for scenario in load.SCENARIOS}
    parser.add_argument("--scenario", choices=list(scenarios), default="whole c32")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--raw", type=Path, metavar="FILE", help="keep the stacks, for flame graphs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    chosen = options(argv)
    program = contestants.environment("profiler", chosen.peers) / "bin" / "py-spy"
    scenario = next(one for one in load.SCENARIOS if one.name == chosen.scenario)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        upstream, one = run.everyone([chosen.name], chosen.peers, Path(folder), stack)
        run.warm([one])
        contestants.get(f"{upstream.base}/pace/{scenario.pace_ms}")
        file = chosen.raw or Path(folder) / "stacks"
        sampler = record(program, one.pid, chosen.seconds, file)
        measured = load.measure(scenario, one.url, one.pid, chosen.seconds + 1)
        sampler.wait()
        own, below, total = counted(file.read_text())
    run.say(0, scenario.name, one.name, measured)
    print(listing("own", own, total, chosen.top), listing("with callees", below, total, chosen.top), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
