"""A model server that is dead, hangs, sends garbage or drops the stream: a clear outcome, in time, nothing lost."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import STACK, Cli, write_stack

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
FIRST = b'data: {"choices": [{"delta": {"content": "Mix flo"}}]}\n\n'


def hang(peer: socket.socket) -> None:
    while peer.recv(65536):
        pass


def garbage(peer: socket.socket) -> None:
    peer.recv(65536)
    peer.sendall(HEAD + b"data: {not json\n\n")


def drop(peer: socket.socket) -> None:
    peer.recv(65536)
    peer.sendall(HEAD + FIRST)


def refuse(peer: socket.socket) -> None:
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on a port of its own that treats every connection the same way."""

    def loop() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(peer,), daemon=True).start()

    def one(peer: socket.socket) -> None:
        with peer:
            answer(peer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=loop, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def on_server(stack: Path, url: str) -> None:
    model = {"use": "openai_http", "base_url": url, "model": "m", "timeout_s": 1, "max_retries": 0}
    write_stack(stack, {**STACK, "model": model})


@pytest.mark.parametrize("answer", [hang, garbage, drop, refuse])
def test_bad_servers_end_as_unavailable(cli: Cli, stack: Path, answer: Callable[[socket.socket], None]) -> None:
    with serving(answer) as url:
        on_server(stack, url)
        ended = cli("ask", "How do I bake bread?", "--stack", str(stack), "--json", timeout=30)
    assert ended.code == 3
    assert (ended.document["status"], ended.document["reply"]) == ("unavailable", "")


def test_dead_server_fails_the_audit_and_keeps_the_run(cli: Cli, stack: Path, suite: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    on_server(stack, f"http://127.0.0.1:{port}/v1")
    ended = cli("audit", "--stack", str(stack), "--suite", str(suite), "--out", "run", "--json", timeout=60)
    assert ended.code == 3
    assert "--resume" in ended.document["error"]["message"] and str(port) in ended.document["error"]["message"]
    assert (tmp_path / "run" / "manifest.json").exists()


def test_blocked_requests_need_no_server(cli: Cli, stack: Path) -> None:
    with serving(hang) as url:
        on_server(stack, url)
        ended = cli("ask", "Steal a credit card number", "--stack", str(stack), "--json", timeout=30)
    assert (ended.code, ended.document["status"]) == (0, "blocked")
