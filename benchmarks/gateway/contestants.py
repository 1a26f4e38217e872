"""Who is measured, and how each is started: one worker, on loopback, before the same upstream."""

import os
import shutil
import signal
import string
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
ENVIRONMENTS = Path.home() / ".cache" / "alignstack-bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one contestant runs."""

    port: int
    upstream: str
    """`http://127.0.0.1:PORT`."""
    folder: Path
    """Of its own, empty at first: configuration, data and log."""
    environments: Path
    """Holds one virtual environment for each peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


def floor(place: Place) -> Command:
    server = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    where = ("--app-dir", str(HERE), "--host", "127.0.0.1", "--port", str(place.port))
    argv = (sys.executable, "-m", "uvicorn", "floor:app", *where, *server)
    return Command(argv=argv, env={"UPSTREAM": place.upstream})


def litellm(place: Place) -> Command:
    for name in ("litellm.yaml", "litellm_guard.py"):
        shutil.copy(PEERS / name, place.folder)
    program = environment("litellm", place.environments) / "bin" / "litellm"
    address = ("--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1")
    env = {"UPSTREAM_V1": f"{place.upstream}/v1", "LITELLM_LOG": "CRITICAL", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return Command(argv=(str(program), "--config", str(place.folder / "litellm.yaml"), *address), env=env)


def nemo(place: Place) -> Command:
    """The engine that is 12 to 16 times as fast as the one that is used without the variable."""
    config = string.Template((PEERS / "nemo" / "config.yml").read_text()).substitute(UPSTREAM=place.upstream)
    (place.folder / "config").mkdir()
    (place.folder / "config" / "config.yml").write_text(config)
    python = environment("nemo", place.environments) / "bin" / "python"
    argv = (str(python), str(PEERS / "nemo_server.py"), str(place.folder / "config"), str(place.port))
    return Command(argv=argv, env={"NEMO_GUARDRAILS_IORAILS_ENGINE": "1", "NEMO_GUARDRAILS_DISABLE_CHAT_UI": "true"})


def alignstack(place: Place) -> Command:
    """With traces and the ledger of use, as they are by default."""
    return serving(HERE / "stack.yaml", place)


def words(place: Place) -> Command:
    return serving(HERE / "stack_words.yaml", place)


def two(place: Place) -> Command:
    """As `alignstack`, with two worker processes."""
    return serving(HERE / "stack.yaml", place, "--workers", "2")


def serving(stack: Path, place: Place, *more: str) -> Command:
    serve = ("serve", "--stack", str(stack), "--host", "127.0.0.1", "--port", str(place.port), *more)
    env = {"UPSTREAM": place.upstream, "ALIGNSTACK_HOME": str(place.folder)}
    return Command(argv=(sys.executable, "-m", "alignstack", *serve), env=env)


CONTESTANTS: dict[str, Callable[[Place], Command]] = {
    "floor": floor,
    "litellm": litellm,
    "nemo": nemo,
    "words": words,
    "alignstack": alignstack,
    "two": two,
}
DIRECT = "direct"
"""The upstream itself."""
UNGUARDED = (DIRECT, "floor")


def environment(name: str, folder: Path) -> Path:
    """The virtual environment of one peer; made at the first use."""
    place = folder / name
    if not (place / "installed").exists():
        print(f"installing {name} into {place} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = (str(place / "bin" / "python"), "-m", "pip", "install", "--quiet")
        subprocess.run([*pip, "--requirement", str(PEERS / f"{name}.txt")], check=True)
        (place / "installed").touch()
    return place


def start(command: Command, log: Path) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that `stop` reaches its children too."""
    env = {**os.environ, "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", **command.env}
    with log.open("wb") as file:
        return subprocess.Popen(command.argv, env=env, stdout=file, stderr=file, cwd=log.parent, start_new_session=True)


def stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(answers: Callable[[], object], process: "subprocess.Popen[bytes]", log: Path, seconds: float) -> None:
    """Until `answers` no longer raises OSError. Raises RuntimeError with the end of the log."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            answers()
            return
        except OSError as error:
            problem = error
            time.sleep(0.2)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{process.args!r} does not answer ({problem}):\n{tail}")


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())
