"""What the clients of model servers share: keys in the stack file, one session for each event loop, attempts, limits,
event streams.

Every way in which a server can fail ends in `ModelUnavailable`, within `timeout_s`. Its message names the server and
what happened, and holds neither the key nor the query of the address.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, ClassVar, Protocol

import msgspec
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator
from yarl import URL

from alignstack.core.errors import ModelUnavailable
from alignstack.core.ports import Delta, Finish
from alignstack.models.wire import Failed, Patience, Wire, Wires

MAX_BYTES = 16 * 2**20
"""An answer longer than this is a server gone wild: the gate and the trace keep answers in memory."""
MAX_EVENT = 2**20
"""Bytes of one event of the stream."""
MAX_ERROR = 2**16
"""Bytes read of the body of an error."""
MAX_COUNT = 10**9
"""Tokens; a server that reports more is not believed."""
MAX_EXCERPT = 250
"""Characters of an error that are passed on."""
RETRIED = frozenset({408, 429, 500, 502, 503, 504, 529})
BACKOFF_S = 0.5
"""Before the first retry; doubled for each further one, unless the server says `Retry-After`. Shortened by chance to
no less than half, so that many callers do not come back at the same moment."""
SURROGATES = re.compile("[\ud800-\udfff]")


class ServerConfig(BaseModel):
    """Keys in the stack file that all model servers have."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    RESERVED: ClassVar[tuple[str, ...]] = ("model", "messages", "stream")
    """What `extra` cannot set."""

    base_url: str
    model: Annotated[str, StringConstraints(min_length=1)]
    api_key: SecretStr | None = None
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds for the whole answer, retries included."""
    connect_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds for the connection, one attempt."""
    idle_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """A stream that sends nothing for so many seconds is given up."""
    max_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Further attempts when the connection fails or the server is busy, as long as no answer has begun."""
    input_price: Annotated[float, Field(ge=0)] = 0.0
    """US dollars per million input tokens."""
    output_price: Annotated[float, Field(ge=0)] = 0.0
    """US dollars per million output tokens."""
    any_model: bool = False
    """The model that a request names is asked, in place of `model`."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """More body parameters; they win over those of requests, and null takes one out (`stream_options: null`)."""

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
        taken = sorted(set(extra) & set(cls.RESERVED))
        if taken:
            raise ValueError(f"cannot set {', '.join(taken)}")
        try:
            json.dumps(extra)
        except (TypeError, ValueError):
            raise ValueError("holds a value that JSON does not have, perhaps a date; put it in quotes") from None
        return extra

    def asked_model(self, wanted: object) -> str:
        """`wanted` is what the request names, if anything."""
        return wanted if self.any_model and isinstance(wanted, str) and wanted else self.model

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars."""
        return (input_tokens * self.input_price + output_tokens * self.output_price) / 1e6


class Answer(Protocol):
    """Reads one answer in the words of one API. All methods raise Failed."""

    done: bool
    """The server has said that nothing more comes."""

    def take(self, event: bytes) -> Sequence[Delta]:
        """The pieces in the data of one event."""

    def whole(self, body: bytes) -> Sequence[Delta]:
        """The pieces of an answer that came as one JSON object."""

    def finish(self) -> Finish:
        """When nothing more comes."""


class Server:
    """Asks, again where that may help. Closing an answer early closes its connection, which tells the server to stop
    generating; one that was read to its end gives its connection back."""

    def __init__(self, config: ServerConfig, path: str, headers: Mapping[str, str], rng: Random | None = None) -> None:
        url = URL(config.base_url)
        self._config = config
        self.shown = str(url.with_user(None).with_query(None).with_fragment(None))
        key = config.api_key.get_secret_value() if config.api_key else None
        self._secrets = tuple(filter(None, (key, url.password)))
        self._head = _head(url, path, headers if key else {**headers, **_basic(url)})
        self._rng = rng or Random()
        self.wires = Wires(
            url,
            Patience(
                timeout_s=config.timeout_s,
                connect_timeout_s=config.connect_timeout_s,
                idle_timeout_s=config.idle_timeout_s,
            ),
        )

    async def ask(self, body: bytes, answer: Answer, *, whole: bool) -> AsyncGenerator[Delta | Finish, None]:
        """`whole`: the answer was asked for as one JSON object, which comes when all of it has been generated. Raises
        ModelUnavailable."""
        try:
            wire = await self._connect(body, asyncio.get_running_loop().time() + self._config.timeout_s, whole)
            try:
                if _is_whole(wire):
                    for delta in answer.whole(await _read(wire)):
                        yield delta
                else:
                    events, part = Events(), b"-"
                    while part and not answer.done:
                        part = await wire.read()
                        for event in events.feed(part) if part else events.end():
                            for delta in answer.take(event):
                                yield delta
                            if answer.done:
                                break
                finish = answer.finish()
            except BaseException:
                wire.close()
                raise
            wire.leave(finished=answer.done)
        except Failed as failure:
            raise self._unavailable(failure) from None
        yield finish

    async def aclose(self) -> None:
        """Closes the connections of the running loop; a later answer opens new ones."""
        await self.wires.aclose()

    async def _connect(self, body: bytes, deadline: float, whole: bool) -> Wire:
        """A connection on which an answer with status 200 begins, after as many attempts as it takes and are
        allowed."""
        for attempt in range(self._config.max_retries + 1):
            try:
                return await self._attempt(body, deadline, whole)
            except Failed as failure:
                wait = failure.wait_s if failure.wait_s is not None else self._backoff(attempt)
                late = asyncio.get_running_loop().time() + wait >= deadline
                if not failure.again or late or attempt == self._config.max_retries:
                    what = f"(asked {attempt + 1} times) {failure}" if attempt else str(failure)
                    raise Failed(what, status=failure.status, wait_s=failure.wait_s) from None
                await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _backoff(self, attempt: int) -> float:
        return BACKOFF_S * float(2**attempt) * self._rng.uniform(0.5, 1)

    async def _attempt(self, body: bytes, deadline: float, whole: bool, *, fresh: bool = False) -> Wire:
        wire = await self.wires.take(deadline, fresh=fresh)
        try:
            wire.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body), deadline, patient=whole)
            await wire.head()
            if wire.status != 200:
                raise await _refused(wire)
        except Failed as failure:
            wire.leave(finished=False)
            if wire.used and failure.again and not wire.status:
                return await self._attempt(body, deadline, whole, fresh=True)  # kept for longer than the server did
            raise
        except BaseException:
            wire.close()
            raise
        return wire

    def _unavailable(self, failure: Failed) -> ModelUnavailable:
        """Servers quote keys in their error texts."""
        what = str(failure)
        for secret in self._secrets:
            what = what.replace(secret, "***")
        text = f"model server {self.shown!r} {what[:MAX_EXCERPT]}"
        return ModelUnavailable(text, status=failure.status, retry_after=failure.wait_s)


def _head(url: URL, path: str, headers: Mapping[str, str]) -> bytes:
    """A request up to the number of bytes in its body."""
    target = (url / path).with_query(url.query).raw_path_qs
    host = url.host_subcomponent if url.is_default_port() else f"{url.host_subcomponent}:{url.port}"
    lines = {
        "Host": host,
        "User-Agent": "alignstack",
        "Content-Type": "application/json",
        "Accept": "text/event-stream, application/json",
        "Accept-Encoding": "identity",
        **headers,
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {target} HTTP/1.1\r\n{text}Content-Length: ".encode("ascii")


def _basic(url: URL) -> dict[str, str]:
    """The header for a user and a password in the address."""
    if not url.user and not url.password:
        return {}
    pair = f"{url.user or ''}:{url.password or ''}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


# ---------------------------------------------------------------- bodies and events


def _is_whole(wire: Wire) -> bool:
    """One JSON object and not a stream of events, whichever was asked for. Raises Failed for neither."""
    if wire.headers.get(b"content-encoding", b"identity") != b"identity":
        raise Failed("sent a compressed answer, which was not asked for")
    kind = wire.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"text/html":
        raise Failed("answered with a web page instead of an event stream; is base_url right? most end in /v1")
    return kind == b"application/json"


async def _refused(wire: Wire) -> Failed:
    """What a status other than 200 means."""
    try:
        raw = await _read(wire, MAX_ERROR)
    except Failed:
        raw = b""
    said = _excerpt(raw)
    what = f"answered HTTP {wire.status}" + (f": {said}" if said else "")
    wait = _seconds(wire.headers.get(b"retry-after", b"").decode("latin-1"))
    return Failed(what, status=wire.status, again=wire.status in RETRIED, wait_s=wait)


def _excerpt(raw: bytes) -> str:
    """The server's own words, if it sent an OpenAI-style error; web pages are not worth quoting."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    return words(data.get("error", data.get("detail"))) if isinstance(data, dict) else ""


def words(error: object) -> str:
    """The message of an error object, on one line of plain characters."""
    message = error.get("message") if isinstance(error, Mapping) else error
    return " ".join(re.sub(r"[^\x20-\x7e]", " ", message).split()) if isinstance(message, str) else ""


def _seconds(header: str) -> float | None:
    return float(header) if re.fullmatch(r"\d{1,4}(\.\d+)?", header) else None


async def _read(wire: Wire, limit: int = 0) -> bytes:
    """The whole body, or its first `limit` bytes."""
    body = bytearray()
    while part := await wire.read():
        body += part
        if limit and len(body) >= limit:
            break
        if len(body) > MAX_BYTES:
            raise _endless()
    return bytes(body)


def _endless() -> Failed:
    return Failed(f"sent more than {MAX_BYTES // 2**20} MiB without an end")


@dataclass(slots=True)
class Events:
    """Splits a stream of server-sent events into the data of each."""

    rest: bytes = b""
    half: bytes = b""
    """The first half of a line end that came in two parts."""
    total: int = 0

    def feed(self, part: bytes) -> Iterator[bytes]:
        """The data of the events that `part` completes. Raises Failed for what is no event stream, after those before
        it: in which parts a stream comes makes no difference."""
        self.total += len(part)
        if self.half or b"\r" in part:
            part = self.half + part
            self.half = b"\r" if part.endswith(b"\r") else b""
            part = part.removesuffix(b"\r").replace(b"\r\n", b"\n")
        *blocks, self.rest = (self.rest + part).split(b"\n\n")
        if self.total > MAX_BYTES:
            raise _endless()
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                yield block[6:]
            else:
                yield from _data(block)
        if len(self.rest) > MAX_EVENT:
            raise Failed("sent a line that does not end")

    def end(self) -> list[bytes]:
        """What stood after the last blank line, less a last line that was cut off."""
        whole, _, _ = self.rest.rpartition(b"\n")
        return list(_data(whole))


def _data(block: bytes) -> Iterator[bytes]:
    """The data of one event; its lines joined, as the specification of server-sent events says."""
    data: list[bytes] = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name not in (b"", b"event", b"id", b"retry"):
            raise Failed("sent something that is not an event stream")
    if data:
        yield b"\n".join(data)


def parse(raw: bytes) -> dict[str, Any]:
    """A JSON object, lone surrogates replaced. Raises Failed for anything else."""
    try:
        data = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise Failed("sent bytes that are not UTF-8") from None
    except (ValueError, RecursionError):
        raise Failed("sent invalid JSON") from None
    if not isinstance(data, dict):
        raise Failed("sent JSON that is no object")
    return {_clean(key): _clean(value) for key, value in data.items()}


def _clean(data: Any) -> Any:
    """Half a surrogate pair, which JSON can write and UTF-8 cannot, becomes the replacement character."""
    if isinstance(data, str):
        return SURROGATES.sub("\ufffd", data)
    if isinstance(data, dict):
        return {_clean(key): _clean(value) for key, value in data.items()}
    return [_clean(value) for value in data] if isinstance(data, list) else data


def json_bytes(body: Mapping[str, Any]) -> bytes:
    """The JSON of a request; half surrogate pairs are sent as they are, escaped."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return json.dumps(body).encode()


def count(value: object, otherwise: int) -> int:
    """A number of tokens that a server reports, if it can be believed."""
    return value if type(value) is int and 0 <= value <= MAX_COUNT else otherwise


def counted(pieces: Sequence[Delta], tokens: object) -> Sequence[Delta]:
    """The pieces of a whole answer, just made, which has so many `tokens` if that can be believed: the first piece
    stands for all but one of each further piece."""
    if pieces:
        pieces[0].tokens = max(count(tokens, 1) - len(pieces) + 1, 1)
    return pieces


def json_text(data: Mapping[str, Any] | None) -> str:
    """Empty for no data."""
    return msgspec.json.encode(data).decode() if data else ""
