"""The same question by the official SDKs, and by hand: then every byte of the answer is there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

import aiohttp
from anthropic import APIError as AnthropicError
from anthropic import APIStatusError as AnthropicStatusError
from anthropic import AsyncAnthropic
from openai import APIError as OpenAIError
from openai import APIStatusError as OpenAIStatusError
from openai import AsyncOpenAI, ContentFilterFinishReasonError

from tests.gateway.conformance import reading
from tests.gateway.conformance.reading import Json, Read

PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An answer as it reached one client."""

    status: int
    id: str
    """`x-request-id`."""
    read: Read
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""
    events: list[Json] = field(default_factory=list)
    body: Json = field(default_factory=dict)


def body(route: str, prompt: Any, *, stream: bool, **more: Any) -> Json:
    """`prompt`: a text, or content parts in the words of the route."""
    turns = [{"role": "user", "content": prompt}]
    match route:
        case "responses":
            asked: Json = {"input": prompt if isinstance(prompt, str) else turns}
        case "messages":
            asked = {"messages": turns, "max_tokens": 100}
        case _:
            asked = {"messages": turns}
            if stream:
                asked["stream_options"] = {"include_usage": True}
    return {"model": "any", "stream": stream, **asked, **more}


class Clients:
    """One of each for a gateway."""

    def __init__(self, url: str, session: aiohttp.ClientSession, key: str = "none") -> None:
        self.url, self.session = url, session
        self.openai = AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20)
        self.anthropic = AsyncAnthropic(base_url=url, api_key=key, max_retries=0, timeout=20)

    async def aclose(self) -> None:
        await self.openai.close()
        await self.anthropic.close()

    async def by_hand(self, route: str, asked: Json) -> Seen:
        async with self.session.post(self.url + PATHS[route], json=asked) as answer:
            raw = await answer.read()
            found = self._seen(answer.status, dict(answer.headers))
            if answer.content_type == "text/event-stream":
                events = reading.events(route, raw)
                return Seen(**found, raw=raw, events=events, read=reading.streamed(route, events))
            data = await answer.json()
        read = reading.whole(route, data) if answer.status == 200 else reading.error(data)
        return Seen(**found, raw=raw, body=data, read=read)

    async def by_sdk(self, route: str, asked: Json) -> Seen:
        try:
            answer = await self._endpoint(route).with_raw_response.create(**asked)
        except (OpenAIStatusError, AnthropicStatusError) as error:
            found = self._seen(error.response.status_code, dict(error.response.headers))
            return Seen(**found, read=reading.error(error.response.json()))
        found = self._seen(answer.status_code, dict(answer.headers))
        parsed = answer.parse()
        if isawaitable(parsed):  # Anthropic's
            parsed = await parsed
        if asked["stream"]:
            events, failed = await self._events(parsed)
            read = failed or reading.streamed(route, events)
            return Seen(**found, events=events, read=read)
        data = parsed.model_dump(exclude_unset=True)
        return Seen(**found, body=data, read=reading.whole(route, data))

    async def put_together(self, route: str, asked: Json) -> Read:
        """By the SDK's helper for streams. OpenAI's raise for answers that a content filter has ended, whose sum is
        there all the same."""
        rest = {key: value for key, value in asked.items() if key != "stream"}
        if route == "responses":
            async with self.openai.responses.stream(**rest) as response:
                events: list[Any] = [event async for event in response]
                final: Any = events[-1].response
        elif route == "chat":
            async with self.openai.chat.completions.stream(**rest) as completion:
                with suppress(ContentFilterFinishReasonError):
                    await completion.until_done()
                final = completion.current_completion_snapshot
        else:
            async with self.anthropic.messages.stream(**rest) as message:
                final = await message.get_final_message()
        return reading.whole(route, final.model_dump(exclude_unset=True))

    async def leave(self, route: str, asked: Json, *, after: int) -> str:
        """Closes a stream after some events; returns the id of the request."""
        answer = await self._endpoint(route).with_raw_response.create(**asked)
        stream = answer.parse()
        if isawaitable(stream):
            stream = await stream
        events = aiter(stream)
        for _ in range(after):
            await anext(events)
        await stream.close()
        return str(answer.headers["x-request-id"])

    def _endpoint(self, route: str) -> Any:
        if route == "messages":
            return self.anthropic.messages
        return self.openai.chat.completions if route == "chat" else self.openai.responses

    async def _events(self, stream: Any) -> tuple[list[Json], Read | None]:
        """What came, and the error that the SDK then raised."""
        events: list[Json] = []
        try:
            async for event in stream:
                events.append(event.model_dump(exclude_unset=True))
        except (OpenAIError, AnthropicError) as error:
            return events, Read(text=_text_of(events), ending="error", error=_code(error))
        return events, None

    def _seen(self, status: int, headers: dict[str, str]) -> Json:
        lower = {name.lower(): value for name, value in headers.items()}
        return {"status": status, "headers": lower, "id": lower["x-request-id"]}


def _code(error: Any) -> str:
    found = error.body.get("error", error.body) if isinstance(error.body, dict) else {}
    return str(found.get("code") or found.get("type"))


def _text_of(events: list[Json]) -> str:
    """Of a stream that broke off, in any of the three APIs."""
    texts = []
    for event in events:
        delta = event.get("delta")
        if "choices" in event:
            texts.append(reading.chunks([event], 0).text)
        elif isinstance(delta, str):
            texts.append(delta)
        elif isinstance(delta, dict):
            texts.append(delta.get("text") or "")
    return "".join(texts)


@asynccontextmanager
async def clients(url: str, key: str = "none") -> AsyncIterator[Clients]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        made = Clients(url, session, key)
        try:
            yield made
        finally:
            await made.aclose()
