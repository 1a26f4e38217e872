"""Any server that speaks OpenAI's `/chat/completions`, streaming.

Every way in which a server can fail ends in `ModelUnavailable`, within `timeout_s`. Its message names the server and
what happened, and holds neither the key nor the query of the address.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator
from yarl import URL

from alignstack.core.errors import ModelUnavailable
from alignstack.core.messages import Message, digest
from alignstack.core.ports import Delta, Finish, Sampling

MAX_BYTES = 16 * 2**20
"""An answer longer than this is a server gone wild: the gate and the trace keep answers in memory."""
MAX_EVENT = 2**20
"""Bytes of one line of the stream."""
MAX_ERROR = 2**16
"""Bytes read of the body of an error."""
MAX_COUNT = 10**9
"""Tokens; a server that reports more is not believed."""
MAX_EXCERPT = 250
"""Characters of an error that are passed on."""
RETRIED = frozenset({408, 429, 500, 502, 503, 504, 529})
BACKOFF_S = 0.5
"""Before the first retry; doubled for each further one, unless the server says `Retry-After`."""
RESERVED = ("model", "messages", "stream")


class OpenAIHTTPConfig(BaseModel):
    """Keys in the stack file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str
    """What `/chat/completions` is appended to, for example `http://127.0.0.1:8000/v1`."""
    model: Annotated[str, StringConstraints(min_length=1)]
    api_key: SecretStr | None = None
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds for the whole answer, retries included."""
    max_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Further attempts when the connection fails or the server is busy, as long as no answer has begun."""
    input_price: Annotated[float, Field(ge=0)] = 0.0
    """US dollars per million input tokens."""
    output_price: Annotated[float, Field(ge=0)] = 0.0
    """US dollars per million output tokens."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """More body parameters; null takes one out, for servers that do not know it (`stream_options: null`)."""

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, text: str) -> str:
        try:
            url = URL(text)
            valid = url.scheme in ("http", "https") and bool(url.host) and 0 < (url.port or 0) < 65536
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("should be an address like http://HOST:PORT/v1")
        return text

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        stripped = SecretStr(key.get_secret_value().strip()) if key else None
        if stripped and not re.fullmatch(r"[\x21-\x7e]*", stripped.get_secret_value()):
            raise ValueError("should be printable ASCII without spaces")
        return stripped if stripped and stripped.get_secret_value() else None

    @field_validator("extra")
    @classmethod
    def _leaves_ours_alone(cls, extra: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(set(extra) & set(RESERVED))
        if taken:
            raise ValueError(f"cannot set {', '.join(taken)}")
        try:
            json.dumps(extra)
        except (TypeError, ValueError):
            raise ValueError("holds a value that JSON does not have, perhaps a date; put it in quotes") from None
        return extra


class _Failed(Exception):
    """An attempt that did not work; the text completes "model server 'http://…' …"."""

    def __init__(self, what: str, *, again: bool = False, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.again = again
        """Nothing of an answer was seen: another attempt may work."""
        self.wait_s = wait_s


class OpenAIHTTP:
    """One session for each event loop, made when first needed. Closing a stream early closes its connection, which
    tells the server to stop generating."""

    Config = OpenAIHTTPConfig

    def __init__(self, config: OpenAIHTTPConfig, *, base: Path = Path()) -> None:
        url = URL(config.base_url)
        self._config = config
        address = url.with_user(None) if config.api_key else url  # a key and a password both claim one header
        self._url = (address / "chat" / "completions").with_query(url.query)
        self._shown = str(url.with_user(None).with_query(None).with_fragment(None))
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, _Kept] = WeakKeyDictionary()
        self.name = config.model
        self.version = digest("openai_http", self._shown, config.model, config.extra)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        """Raises ModelUnavailable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.timeout_s
        body = _body(self._config, messages, sampling)
        try:
            response = await self._connect(body, deadline)
            try:
                async for item in self._answer(response):
                    yield item
            finally:
                response.close()
        except _Failed as failure:
            what = self._redact(str(failure))[:MAX_EXCERPT]
            raise ModelUnavailable(f"model server {self._shown!r} {what}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ModelUnavailable(f"model server {self._shown!r} {self._describe(error)}") from None

    async def aclose(self) -> None:
        """Closes the session of the running loop; a later stream opens a new one."""
        kept = self._sessions.pop(asyncio.get_running_loop(), None)
        if kept is not None:
            await kept.keeper.aclose()

    async def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        kept = self._sessions.get(loop)
        if kept is None or kept.session.closed:
            keeper = _keep_session()
            kept = self._sessions[loop] = _Kept(keeper=keeper, session=await anext(keeper))
        return kept.session

    async def _connect(self, body: bytes, deadline: float) -> aiohttp.ClientResponse:
        """The response whose status is 200, after as many attempts as it takes and are allowed."""
        for attempt in range(self._config.max_retries + 1):
            try:
                return await self._attempt(body, deadline)
            except _Failed as failure:
                wait = failure.wait_s if failure.wait_s is not None else BACKOFF_S * 2**attempt
                late = asyncio.get_running_loop().time() + wait >= deadline
                if not failure.again or late or attempt == self._config.max_retries:
                    raise _Failed(f"(asked {attempt + 1} times) {failure}" if attempt else str(failure)) from None
                await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, body: bytes, deadline: float) -> aiohttp.ClientResponse:
        left = deadline - asyncio.get_running_loop().time()
        session = await self._session()
        try:
            # No redirects: the key must not travel to a host that the configuration does not name.
            response = await session.post(
                self._url,
                data=body,
                headers=self._headers(),
                timeout=aiohttp.ClientTimeout(total=max(left, 0.001)),
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectionError, ConnectionError) as error:
            timed_out = isinstance(error, TimeoutError)
            raise _Failed(self._describe(error), again=not timed_out) from None
        if response.status == 200:
            return response
        try:
            raise await _refused(response)
        finally:
            response.close()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        if self._config.api_key:
            headers["Authorization"] = f"Bearer {self._config.api_key.get_secret_value()}"
        return headers

    async def _answer(self, response: aiohttp.ClientResponse) -> AsyncIterator[Delta | Finish]:
        kind = response.content_type
        if kind == "application/json":
            pieces = _whole(await _read(response))
        elif kind == "text/html":
            raise _Failed("answered with a web page instead of an event stream; does base_url end in /v1?")
        else:
            pieces = _chunks(response)
        state = _State()
        async for chunk in pieces:
            for text in state.take(chunk):
                yield Delta(text=text)
        yield state.finish(self._config)

    def _describe(self, error: Exception) -> str:
        match error:
            case TimeoutError():
                return f"did not finish within {self._config.timeout_s:g} s (timeout_s)"
            case aiohttp.ClientConnectorDNSError():
                return "cannot be reached: its host name is not known"
            case aiohttp.ClientSSLError():
                return "cannot be reached: TLS failed"
            case aiohttp.ClientConnectorError():
                number = error.os_error.errno
                return f"cannot be reached: {os.strerror(number).lower() if number else 'connection failed'}"
            case aiohttp.ServerDisconnectedError():
                return "closed the connection without an answer"
            case aiohttp.ClientPayloadError() | aiohttp.ClientOSError() | ConnectionError():
                return "dropped the connection in mid-answer"
            case aiohttp.ClientResponseError():
                return "sent something that is not HTTP"
        return f"cannot be used: {type(error).__name__}"

    def _redact(self, text: str) -> str:
        """Servers quote keys in their error texts."""
        secrets = [self._config.api_key.get_secret_value() if self._config.api_key else None, self._url.password]
        for secret in filter(None, secrets):
            text = text.replace(secret, "***")
        return text


async def _keep_session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    """A generator and not a plain session: a loop that ends closes its open generators, and so the session, even when
    nobody called `aclose`."""
    async with aiohttp.ClientSession() as session:
        yield session


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    keeper: AsyncGenerator[aiohttp.ClientSession, None]
    session: aiohttp.ClientSession


def _body(config: OpenAIHTTPConfig, messages: Sequence[Message], sampling: Sampling) -> bytes:
    body: dict[str, Any] = {
        "model": config.model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        **config.extra,
    }
    return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


async def _refused(response: aiohttp.ClientResponse) -> _Failed:
    """What a status other than 200 means."""
    status = response.status
    try:
        raw = await response.content.readexactly(MAX_ERROR)
    except asyncio.IncompleteReadError as end:
        raw = end.partial
    except (aiohttp.ClientError, OSError):
        raw = b""
    said = _excerpt(raw)
    what = f"answered HTTP {status}" + (f": {said}" if said else "")
    return _Failed(what, again=status in RETRIED, wait_s=_seconds(response.headers.get("Retry-After")))


def _excerpt(raw: bytes) -> str:
    """The server's own words, if it sent an OpenAI-style error; web pages are not worth quoting."""
    try:
        data = json.loads(raw)
    except ValueError:
        return ""
    return _words(data.get("error", data.get("detail"))) if isinstance(data, dict) else ""


def _words(error: object) -> str:
    message = error.get("message") if isinstance(error, Mapping) else error
    return " ".join(re.sub(r"[^\x20-\x7e]", " ", message).split()) if isinstance(message, str) else ""


def _seconds(header: str | None) -> float | None:
    return float(header) if header and re.fullmatch(r"\d{1,4}(\.\d+)?", header) else None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    async for part in _capped(response):
        parts.append(part)
    return b"".join(parts)


async def _capped(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    total = 0
    async for part in response.content.iter_any():
        total += len(part)
        if total > MAX_BYTES:
            raise _Failed(f"sent more than {MAX_BYTES // 2**20} MiB without an end")
        yield part


async def _whole(raw: bytes) -> AsyncIterator[dict[str, Any]]:
    """The answer of a server that does not stream, in the shape of a stream's chunks."""
    data = _parse(raw)
    choices = data.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and "message" in choice:
            choice["delta"] = choice.pop("message")
    yield data


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream, until `[DONE]` or the end of the stream."""
    async for event in _events(response):
        if event.strip() == b"[DONE]":
            return
        yield _parse(event)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of each event; its lines joined, as the specification of server-sent events says."""
    data: list[bytes] = []
    async for line in _lines(response):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data = []
        elif name not in (b"", b"event", b"id", b"retry"):
            raise _Failed("sent something that is not an event stream")
    if data:
        yield b"\n".join(data)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines without their ends; what follows the last line end was cut off and is dropped."""
    rest = b""
    async for part in _capped(response):
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > MAX_EVENT:
            raise _Failed("sent a line that does not end")
        for line in lines:
            yield line.removesuffix(b"\r")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise _Failed("sent bytes that are not UTF-8") from None
    except (ValueError, RecursionError):
        raise _Failed("sent invalid JSON") from None
    if not isinstance(data, dict):
        raise _Failed("sent JSON that is no object")
    return data


@dataclass(slots=True, kw_only=True)
class _State:
    """What the chunks so far add up to."""

    reason: str | None = None
    deltas: int = 0
    usage: Mapping[str, Any] = field(default_factory=dict)

    def take(self, chunk: dict[str, Any]) -> list[str]:
        """The texts in a chunk."""
        if chunk.get("error"):
            said = _words(chunk["error"])
            raise _Failed("reported an error" + (f": {said}" if said else ""))
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise _Failed("sent a chunk without choices")
        return [text for choice in choices[:1] if (text := self._text(choice))]

    def _text(self, choice: dict[str, Any]) -> str:
        self.reason = choice.get("finish_reason") or self.reason
        delta = choice.get("delta") or {}
        text = (delta.get("content") or delta.get("refusal") or "") if isinstance(delta, dict) else None
        if not isinstance(text, str):
            raise _Failed("sent a chunk whose content is no text")
        self.deltas += bool(text)
        return re.sub("[\ud800-\udfff]", "\ufffd", text)

    def finish(self, config: OpenAIHTTPConfig) -> Finish:
        if not self.reason:
            raise _Failed("ended the stream before the answer was finished")
        asked, said = self._count("prompt_tokens", 0), self._count("completion_tokens", self.deltas)
        return Finish(
            reason=_reason(self.reason),
            input_tokens=asked,
            output_tokens=said,
            cost=(asked * config.input_price + said * config.output_price) / 1e6,
        )

    def _count(self, name: str, otherwise: int) -> int:
        value = self.usage.get(name)
        return value if type(value) is int and 0 <= value <= MAX_COUNT else otherwise


def _reason(text: object) -> Literal["stop", "length", "content_filter"]:
    """Servers know more reasons than the three that matter here."""
    return "length" if text == "length" else "content_filter" if text == "content_filter" else "stop"
