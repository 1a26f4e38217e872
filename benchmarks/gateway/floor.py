"""The least that a gateway in Python can be: takes a request, hands it on, hands the answer back, looks at nothing.

UPSTREAM=http://127.0.0.1:PORT uvicorn floor:app --loop uvloop --http httptools --no-access-log
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

UPSTREAM = os.environ["UPSTREAM"]
HEADERS = {"content-type": "application/json", "authorization": "Bearer none"}
SKIPPED = ("User-Agent", "Accept", "Accept-Encoding")
sessions: list[aiohttp.ClientSession] = []
"""One, made in the server's own loop when it starts."""


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    else:
        await forward(scope["path"], await whole_body(receive), send)


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, skip_auto_headers=SKIPPED) as session:
        sessions.append(session)
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def whole_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def forward(path: str, body: bytes, send: Send) -> None:
    async with sessions[0].post(UPSTREAM + path, data=body, headers=HEADERS) as answer:
        headers = [(b"content-type", answer.headers["content-type"].encode())]
        if answer.content_length is not None:
            headers.append((b"content-length", b"%d" % answer.content_length))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for data in answer.content.iter_any():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
