"""Web pages that the operator allows may call, others not."""

from pathlib import Path

import aiohttp
import pytest

from tests.gateway.running import gateway

STACK = """
model: {use: scripted, default: hello}
serve: {allowed_origins: ["https://app.example"]}
"""
PAGE = {"origin": "https://app.example"}
OTHER = {"origin": "https://evil.example"}
ASKED = {"messages": [{"role": "user", "content": "hi"}]}


async def test_a_page_that_is_allowed_may_ask_and_read(tmp_path: Path) -> None:
    async with gateway(tmp_path, STACK) as running, aiohttp.ClientSession(running.url) as session:
        async with session.options("/v1/chat/completions", headers=PAGE) as asked:
            assert asked.status == 204
            assert "authorization" in asked.headers["access-control-allow-headers"]
        async with session.post("/v1/chat/completions", json=ASKED, headers=PAGE) as answer:
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == PAGE["origin"]
            assert answer.headers["access-control-expose-headers"] == "x-request-id"


@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
async def test_another_page_may_not(tmp_path: Path, method: str) -> None:
    async with gateway(tmp_path, STACK) as running, aiohttp.ClientSession(running.url) as session:
        async with session.request(method, "/v1/chat/completions", json=ASKED, headers=OTHER) as answer:
            assert answer.status in (403, 405)
            assert "access-control-allow-origin" not in answer.headers
        assert await running.traces() == []


async def test_programs_send_no_origin_and_get_no_such_headers(tmp_path: Path) -> None:
    async with gateway(tmp_path, STACK) as running, aiohttp.ClientSession(running.url) as session:
        answer = await session.post("/v1/chat/completions", json=ASKED)
        assert answer.status == 200
        assert "access-control-allow-origin" not in answer.headers
