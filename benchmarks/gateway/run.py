"""The gateway beside others, on this machine, under the same load.

    python benchmarks/gateway/run.py [--seconds 5] [--rounds 3] [--only NAME …] [--json FILE]

Needs wrk. Everything listens on 127.0.0.1 and has one worker. LiteLLM and NeMo Guardrails are installed at the first
use, each into a virtual environment of its own below --peers. All run at once and are measured in turn, in rounds, so
that what else the machine does falls on all of them. Exits with 1 when an answer was bad or a bar was missed.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import contestants
import load
import table

WARM_S = 2
PATIENCE_S = 120.0
"""LiteLLM takes half a minute to start on a busy machine."""


class Running:
    """One contestant that answers."""

    def __init__(self, name: str, base: str, pid: int) -> None:
        self.name = name
        self.base = base
        self.url = f"{base}/v1/chat/completions"
        self.pid = pid


@contextmanager
def running(name: str, command: contestants.Command, base: str, folder: Path) -> Iterator[Running]:
    log = folder / "log"
    process = contestants.start(command, log)
    try:
        one = Running(name, base, process.pid)
        contestants.wait_until(lambda: load.check(one.url), process, log, PATIENCE_S)
        yield one
    finally:
        contestants.stop(process)


def everyone(names: Sequence[str], environments: Path, folder: Path, stack: ExitStack) -> list[Running]:
    """The upstream first, whose name is `direct`."""
    base = address()
    upstream = contestants.Command(argv=(sys.executable, str(load.HERE / "upstream.py"), base.rpartition(":")[2]))
    found = [stack.enter_context(running(contestants.DIRECT, upstream, base, made(folder / "upstream")))]
    for name in names:
        if name == contestants.DIRECT:
            continue
        here = address()
        place = contestants.Place(
            port=int(here.rpartition(":")[2]), upstream=base, folder=made(folder / name), environments=environments
        )
        command = contestants.CONTESTANTS[name](place)
        found.append(stack.enter_context(running(name, command, here, place.folder)))
        if name not in contestants.UNGUARDED:
            load.guards(found[-1].url)
        print(f"{name} runs", file=sys.stderr)
    return found


def address() -> str:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def warm(runners: Sequence[Running]) -> None:
    for one in runners:
        load.wholes(one.url, 8, WARM_S)
        load.streams(one.url, 8, WARM_S)


def rounds(
    runners: Sequence[Running], scenarios: Sequence[load.Scenario], count: int, seconds: int
) -> dict[tuple[str, str], list[load.Measured]]:
    """Who is first changes from round to round."""
    results = defaultdict(list)
    for number in range(count):
        for scenario in scenarios:
            contestants.get(f"{runners[0].base}/pace/{scenario.pace_ms}")
            for index in range(len(runners)):
                one = runners[(index + number) % len(runners)]
                measured = load.measure(scenario, one.url, one.pid, seconds)
                results[scenario.name, one.name].append(measured)
                say(number, scenario.name, one.name, measured)
    return results


def say(number: int, scenario: str, name: str, measured: load.Measured) -> None:
    rate, cpu = table.figure(measured["rate"]), table.figure(measured["cpu_ms"])
    bad = f", {measured['bad']:.0f} BAD" if measured["bad"] else ""
    print(f"round {number + 1}: {scenario}, {name}: {rate}/s, {cpu} ms CPU each{bad}", file=sys.stderr)


def machine() -> str:
    load_average = table.figure(os.getloadavg()[1])
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, load average {load_average} in five minutes"


def report(
    names: Sequence[str], scenarios: Sequence[load.Scenario], results: Mapping[tuple[str, str], list[load.Measured]]
) -> bool:
    """Prints; False when something was not as it should be."""
    print(machine(), end="\n\n")
    print(table.tables(scenarios, names, results))
    text, reached = table.bars(names, results)
    print(f"\n{text}" if text else "")
    bad = {key: sum(one["bad"] for one in of) for key, of in results.items()}
    for (scenario, name), count in bad.items():
        if count:
            print(f"BAD ANSWERS: {count:.0f} from {name} in {scenario}")
    return reached and not any(bad.values())


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    names = (contestants.DIRECT, *contestants.CONTESTANTS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=contestants.ENVIRONMENTS, metavar="DIR")
    parser.add_argument("--seconds", type=int, default=5, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=names, default=list(names), metavar="NAME", help=", ".join(names))
    scenarios = [scenario.name for scenario in load.SCENARIOS]
    parser.add_argument(
        "--scenarios", nargs="+", choices=scenarios, default=scenarios, metavar="S", help=str(scenarios)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every measurement")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    chosen = options(argv)
    if not shutil.which("wrk"):
        print("wrk is not installed (Debian: apt-get install wrk)", file=sys.stderr)
        return 3
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # what was started is stopped then too
    scenarios = [scenario for scenario in load.SCENARIOS if scenario.name in chosen.scenarios]
    try:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            runners = everyone(chosen.only, chosen.peers, Path(folder), stack)
            warm(runners)
            results = rounds(runners, scenarios, chosen.rounds, chosen.seconds)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 3
    if chosen.json:
        rows = [{"scenario": s, "name": n, "rounds": list(of)} for (s, n), of in results.items()]
        chosen.json.write_text(json.dumps(rows, indent=1))
    return 0 if report([one.name for one in runners], scenarios, results) else 1


if __name__ == "__main__":
    sys.exit(main())
