"""The gateway as operators run it: a process that is told to stop and to reload, that only some may reach, and that
keeps secrets to itself."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from alignstack.store.traces import SqliteTraces
from tests.gateway.conformance import reading, workers
from tests.gateway.conformance.clients import PATHS, Clients, body, clients
from tests.gateway.conformance.process import ENDS, Process, command, new_key, serve
from tests.gateway.conformance.upstream import SCRIPTS, Upstream, upstream

RECIPE = "".join(SCRIPTS["slow"].read)


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    async with upstream() as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


def write_stack(folder: Path, server: Upstream, *, word: str = "bomb", **more: Any) -> Path:
    stack = {
        "model": {"use": "openai_http", "base_url": f"{server.url}/v1", "model": "tiny", "max_retries": 0},
        "streaming": True,
        "window": 4,
        "layers": [
            {"use": "keyword", "name": "words", "patterns": [word]},
            {"use": "keyword", "name": "out", "phase": "output", "patterns": ["swordfish"]},
        ],
        **more,
    }
    path = folder / "stack.yaml"
    path.write_text(json.dumps(stack), encoding="utf-8")
    return path


# ---------------------------------------------------------------- stopping


@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGTERM, "1"), (signal.SIGTERM, "2"), (signal.SIGINT, "1")],
    ids=lambda value: getattr(value, "name", value),
)
async def test_a_gateway_that_is_stopped_ends_what_it_has_begun(
    tmp_path: Path, server: Upstream, session: aiohttp.ClientSession, workers: str, number: signal.Signals
) -> None:
    async with serve(write_stack(tmp_path, server), "--workers", workers) as process:
        whole = asyncio.ensure_future(post(session, process, body("chat", "slow whole", stream=False)))
        async with session.post(process.url + PATHS["chat"], json=body("chat", "slow stream", stream=True)) as answer:
            first = await answer.content.readany()
            await server.arrival("whole")
            process.signal(number)
            await refused(process)
            assert not server.asked("slow stream")[0].finished.is_set()  # it still speaks
            raw = first + await answer.content.read()
        assert await process.ended() == 0
    read = reading.streamed("chat", reading.events("chat", raw))
    assert (read.text, read.ending) == (RECIPE, "stop")
    assert (await whole)["choices"][0]["message"]["content"] == RECIPE
    assert "Traceback" not in process.err
    assert {trace.outcome.status for trace in SqliteTraces().recent(10) if trace.outcome} == {"delivered"}


async def post(session: aiohttp.ClientSession, process: Process, asked: dict[str, Any]) -> dict[str, Any]:
    async with session.post(process.url + PATHS["chat"], json=asked) as answer:
        found: dict[str, Any] = await answer.json()
    return found


async def refused(process: Process) -> None:
    """Waits until nobody takes connections any more."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", process.port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)


async def test_what_takes_longer_than_the_drain_is_stopped_and_accounted_for(
    tmp_path: Path, server: Upstream, session: aiohttp.ClientSession
) -> None:
    stack = write_stack(tmp_path, server, serve={"drain_seconds": 1})
    async with serve(stack) as process:
        asked = body("chat", "endless", stream=True)
        async with session.post(process.url + PATHS["chat"], json=asked) as answer:
            trace_id = answer.headers["x-request-id"]
            await answer.content.readany()
            process.signal(signal.SIGTERM)
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.content.read()
        assert await process.ended() == 0
    outcome = SqliteTraces().get(trace_id).outcome
    assert outcome is not None and outcome.status == "abandoned"
    assert server.asked("endless")[0].gone.is_set()


# ---------------------------------------------------------------- reloading


async def test_a_reload_is_for_new_requests_and_leaves_streams_alone(
    tmp_path: Path, server: Upstream, session: aiohttp.ClientSession
) -> None:
    stack = write_stack(tmp_path, server)
    async with serve(stack) as process, clients(process.url) as ask:
        async with session.post(process.url + PATHS["chat"], json=body("chat", "slow stream", stream=True)) as answer:
            first = await answer.content.readany()
            write_stack(tmp_path, server, word="bread", refusal="Not with the new stack.")
            process.signal(signal.SIGHUP)
            await process.says("serving stack")
            new = await ask.by_sdk("chat", body("chat", "bread", stream=False))
            assert not server.asked("slow stream")[0].finished.is_set()
            raw = first + await answer.content.read()
            old_id = answer.headers["x-request-id"]
        assert reading.streamed("chat", reading.events("chat", raw)).text == RECIPE
        assert (new.read.text, new.read.ending) == ("Not with the new stack.", "content_filter")
    old, new_trace = SqliteTraces().get(old_id), SqliteTraces().get(new.id)
    assert old.stack != new_trace.stack and new_trace.stack.startswith((await process.says("serving stack (.*)"))[1])


async def test_a_reload_reads_the_policy_again_in_every_worker(tmp_path: Path, server: Upstream) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("{extends: built-in, name: mine, block_text: I can't help with that. Before.}", encoding="utf-8")
    stack = write_stack(tmp_path, server, policy="policy.yaml")
    async with serve(stack, "--workers", "2", TMPDIR=str(tmp_path)) as process, clients(process.url) as ask:
        await workers.count(tmp_path, 2)
        blocked = body("chat", "a bomb", stream=False)
        assert (await ask.by_sdk("chat", blocked)).read.text == "I can't help with that. Before."
        policy.write_text(
            "{extends: built-in, name: mine, block_text: I can't help with that. After.}", encoding="utf-8"
        )
        process.signal(signal.SIGHUP)
        await process.says("serving stack", times=2)
        answers = await asyncio.gather(*(ask.by_hand("chat", blocked) for _ in range(8)))
        assert {seen.read.text for seen in answers} == {"I can't help with that. After."}


async def test_of_many_reloads_the_last_one_stays(tmp_path: Path, server: Upstream) -> None:
    stack = write_stack(tmp_path, server)
    async with serve(stack) as process, clients(process.url) as ask:

        async def refusal() -> str:
            return (await ask.by_hand("chat", body("chat", "a bomb", stream=False))).read.text

        for number in range(5):
            write_stack(tmp_path, server, refusal=f"Number {number}.")
            process.signal(signal.SIGHUP)
        async with asyncio.timeout(ENDS):
            while await refusal() != "Number 4.":
                continue
        await asyncio.sleep(0.3)  # for an older one that took longer
        assert await refusal() == "Number 4."


@pytest.mark.parametrize("broken", ["{model: {use: openai_htp}}", "{", "{model: {use: scripted}, layers: [{use: x}]}"])
async def test_a_file_with_an_error_changes_nothing(tmp_path: Path, server: Upstream, broken: str) -> None:
    stack = write_stack(tmp_path, server)
    async with serve(stack) as process, clients(process.url) as ask:
        before = await ask.by_hand("chat", body("chat", "bread", stream=False))
        stack.write_text(broken, encoding="utf-8")
        process.signal(signal.SIGHUP)
        await process.says("was not taken over: .*stack.yaml")
        after = await ask.by_hand("chat", body("chat", "bread", stream=False))
        assert (after.status, after.read.text) == (200, before.read.text)
        assert SqliteTraces().get(after.id).stack == SqliteTraces().get(before.id).stack
        write_stack(tmp_path, server, refusal="Mended.")
        process.signal(signal.SIGHUP)
        await process.says("serving stack")
        assert (await ask.by_hand("chat", body("chat", "a bomb", stream=False))).read.text == "Mended."


async def test_it_is_not_ready_while_its_ledger_cannot_be_reached(
    tmp_path: Path, server: Upstream, session: aiohttp.ClientSession
) -> None:
    stack = write_stack(tmp_path, server, serve={"ledger": "postgresql://me:hidden@127.0.0.1:1/ledger"})
    async with serve(stack, ready=503) as process:
        async with session.get(f"{process.url}/ready") as answer:
            assert (answer.status, await answer.json()) == (503, {"status": "the store does not answer"})
        async with session.get(f"{process.url}/health") as answer:
            assert answer.status == 200
        async with session.post(process.url + PATHS["chat"], json=body("chat", "bread", stream=False)) as answer:
            assert answer.status == 503
    assert not server.asked("bread")  # what cannot be written down is not done
    assert "hidden" not in process.err


# ---------------------------------------------------------------- who may connect


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_without_keys_it_does_not_listen_to_the_network(tmp_path: Path, server: Upstream, host: str) -> None:
    stack = str(write_stack(tmp_path, server))
    code, out, err = await command("serve", "--stack", stack, "--port", "0", "--host", host)
    assert (code, out) == (2, "")
    assert "alignstack keys add" in err and host in err and "Traceback" not in err


async def test_with_keys_it_listens_where_it_is_told(tmp_path: Path, server: Upstream) -> None:
    key = await new_key("shop")
    stack = write_stack(tmp_path, server)
    async with serve(stack, "--host", "0.0.0.0") as process, clients(process.url, key["secret"]) as ask:
        assert (await ask.by_sdk("chat", body("chat", "bread", stream=False))).read.ending == "stop"
        trace = SqliteTraces().recent(1)[0]
        assert trace.request.caller == key["id"]


LOCAL: tuple[dict[str, str], ...] = ({}, {"Host": "localhost"}, {"Host": "[::1]:80"})
FOREIGN_HOSTS = (
    {"Host": "rebound.example"},
    {"Host": "rebound.example:8080"},
    {"Host": "127.0.0.1.rebound.example"},
    {"Host": "127.0.0.1@rebound.example"},
    {"Host": "rebound.example", "Origin": "http://rebound.example"},
)
"""What a page sends whose own name has come to mean this machine (DNS rebinding)."""
FOREIGN_PAGES = ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"})


async def statuses(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> set[int]:
    """Of all routes that need somebody."""
    found = set()
    for route, path in PATHS.items():
        async with session.post(url + path, json=body(route, "bread", stream=False), headers=headers) as answer:
            found.add(answer.status)
    async with session.post(f"{url}/v1/moderations", json={"input": "bread"}, headers=headers) as answer:
        found.add(answer.status)
    for path in ("/v1/models", "/v1/models/tiny", "/metrics"):
        async with session.get(url + path, headers=headers) as answer:
            found.add(answer.status)
    return found


async def test_web_pages_do_not_reach_it(tmp_path: Path, server: Upstream, session: aiohttp.ClientSession) -> None:
    async with serve(write_stack(tmp_path, server)) as process:
        for headers in LOCAL:
            assert await statuses(session, process.url, headers) == {200}, headers
        for headers in (*FOREIGN_HOSTS, *FOREIGN_PAGES):
            assert await statuses(session, process.url, headers) == {403}, headers


async def test_with_keys_any_name_will_do_and_pages_still_need_leave(
    tmp_path: Path, server: Upstream, session: aiohttp.ClientSession
) -> None:
    key = await new_key("shop", "--admin")
    known = {"Authorization": f"Bearer {key['secret']}"}
    stack = write_stack(tmp_path, server, serve={"allowed_origins": ["https://shop.example"]})
    async with serve(stack) as process:
        for headers in ({"Host": "shop.example"}, {"Origin": "https://shop.example"}):
            assert await statuses(session, process.url, known | headers) == {200}, headers
            assert await statuses(session, process.url, headers) == {401}, headers
        for headers in FOREIGN_PAGES:
            assert await statuses(session, process.url, known | headers) == {403}, headers


# ---------------------------------------------------------------- keys


async def test_keys_work_until_they_are_suspended_or_revoked(tmp_path: Path, server: Upstream) -> None:
    good, bad = await new_key("good"), await new_key("bad")
    async with (
        serve(write_stack(tmp_path, server)) as process,
        clients(process.url, good["secret"]) as shop,
        clients(process.url, bad["secret"]) as thief,
        clients(process.url, "sk-as-never-made") as stranger,
    ):
        for route in PATHS:
            asked = body(route, "bread", stream=True)
            assert (await thief.by_sdk(route, asked)).status == 200
            refused = await stranger.by_sdk(route, asked)
            assert (refused.status, refused.read.error) == (401, error(route, "invalid_api_key"))
        await command("keys", "suspend", bad["id"], "--minutes", "5")
        await becomes(thief, 403, "key_suspended")
        await command("keys", "revoke", bad["id"])
        await becomes(thief, 401, "invalid_api_key")
        assert (await shop.by_sdk("chat", body("chat", "bread", stream=False))).status == 200


def error(route: str, code: str) -> str:
    kinds = {"invalid_api_key": "authentication_error", "key_suspended": "permission_error"}
    return kinds[code] if route == "messages" else code


async def becomes(ask: Clients, status: int, code: str) -> None:
    """A gateway knows of a change within a second; a test on a busy machine is more patient."""
    asked = body("chat", "bread", stream=False)
    async with asyncio.timeout(ENDS):
        while (await ask.by_sdk("chat", asked)).status != status:
            continue
    for route in PATHS:
        seen = await ask.by_sdk(route, body(route, "bread", stream=False))
        assert (seen.status, seen.read.error) == (status, error(route, code))


async def test_a_key_is_nowhere_to_be_found(
    tmp_path: Path, home: Path, server: Upstream, session: aiohttp.ClientSession
) -> None:
    """Neither where it belongs, nor where clients put it by mistake. What it was sent to a model as, the model has."""
    key = await new_key("shop", "--admin")
    secret, known = key["secret"], {"Authorization": f"Bearer {key['secret']}"}
    async with serve(write_stack(tmp_path, server)) as process:
        for route, path in PATHS.items():
            for asked in misplaced(route, secret):
                for headers in (known, {"x-api-key": secret}, {"Authorization": f"Basic {secret}"}, {}):
                    async with session.post(f"{process.url}{path}?key={secret}", json=asked, headers=headers) as answer:
                        assert answer.status in (200, 400, 401, 502)
                        assert secret not in str(answer.headers)
        for path in (f"/v1/{secret}", f"/v1/models/{secret}", f"/v1/models?key={secret}"):
            async with session.get(process.url + path, headers={**known, "User-Agent": secret}) as answer:
                assert answer.status in (200, 404)
        async with session.get(f"{process.url}/metrics?key={secret}", headers=known) as answer:
            assert secret not in await answer.text()
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert not any(secret in str(asked.headers) for asked in server.asked(""))
    written = files(home) | files(tmp_path)
    assert any(key["id"].encode() in content for content in written.values())  # it was looked where things are written
    leaks = [str(file) for file, content in written.items() if secret.encode() in content]
    assert not leaks and secret not in process.err and secret.encode() not in process.out


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def misplaced(route: str, secret: str) -> list[dict[str, Any]]:
    """Requests with the key in the text, in keys that are read, in keys that are not, and in one that is wrong."""
    asked = body(route, "bread", stream=False)
    person = {"metadata": {"user_id": secret}} if route == "messages" else {"user": secret}
    return [
        body(route, f"bread, my key is {secret}", stream=False),
        {**asked, **person},
        {**asked, "model": secret},
        {**asked, "api_key": secret},
        {**asked, secret: secret},
        {**asked, "stream": secret},
        {**asked, "tools": [{"type": "function", "name": "a", "function": {"name": "a", "description": secret}}]},
        body(route, "500", stream=False, user=secret) if route == "chat" else body(route, "500", stream=False),
    ]
