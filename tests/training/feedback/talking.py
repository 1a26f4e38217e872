"""A server on a real port, in a thread of its own, that answers like OpenAI's and remembers what it was asked."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.models.servers import server

Body = dict[str, Any]
Said = str | tuple[str, dict[str, float]] | web.Response
"""A text, or one with the log-probabilities of what the first token could have been, or a whole response."""


@dataclass
class Talking:
    """Where it listens and what it was asked."""

    url: str = ""
    asked: list[Body] = field(default_factory=list)
    at_once: int = 0
    most: int = 0
    """Requests that it worked on at the same time, at most."""

    @property
    def block(self) -> dict[str, Any]:
        """As `model:` of a stack file."""
        return {"use": "openai_http", "base_url": self.url, "model": "m", "max_retries": 0}

    def system(self, i: int) -> str:
        return str(self.asked[i]["messages"][0]["content"])


@contextmanager
def talking(reply: Callable[[Body], Said], delay_s: float = 0.0) -> Iterator[Talking]:
    state, started, ended, loop = Talking(), threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        state.asked.append(body)
        state.at_once += 1
        state.most = max(state.most, state.at_once)
        await asyncio.sleep(delay_s)
        state.at_once -= 1
        said = reply(body)
        return said if isinstance(said, web.Response) else web.json_response(_whole(said, body))

    async def serve() -> None:
        async with server(handler) as state.url:
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield state
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


def _whole(said: str | tuple[str, dict[str, float]], body: Body) -> Body:
    text, top = said if isinstance(said, tuple) else (said, {})
    choice: Body = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if top and body.get("logprobs"):
        entries = [{"token": token, "logprob": value} for token, value in top.items()]
        token = {"token": text, "logprob": top[text], "top_logprobs": entries[: body["top_logprobs"]]}
        choice["logprobs"] = {"content": [token]}
    return {"choices": [choice]}


def shown(body: Body) -> dict[str, str]:
    """What stands between the tags of the user's message, by name."""
    text = body["messages"][-1]["content"]
    return dict(re.findall(r"^<(\w+)>\n(.*?)\n</\1>$", text, re.M | re.S))


def likes(word: str) -> Callable[[Body], Said]:
    """A judge with a preference: the answer with more of this word, whatever its place."""

    def reply(body: Body) -> Said:
        texts = shown(body)
        return "A" if texts["answer_a"].count(word) > texts["answer_b"].count(word) else "B"

    return reply
