"""A real Redis server for the tests that need one, which are not there where it is not installed."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

collect_ignore = [] if shutil.which("redis-server") else ["test_rate_limit_redis.py"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(["redis-server", *options, "--requirepass", "hunter2"], stdout=subprocess.DEVNULL)
    try:
        _wait_for(port, folder)
        yield port
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int, folder: Path) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"redis-server does not start in {folder}")
