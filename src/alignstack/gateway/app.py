"""The gateway as an ASGI application: routes, who may use them, and errors in the dialect of the route."""

import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from alignstack.core.errors import Unavailable
from alignstack.core.usage import ANYONE, Key
from alignstack.gateway import moderate, openapi
from alignstack.gateway.ask import Exchange
from alignstack.gateway.call import Dialect, Refused
from alignstack.gateway.dialects import models
from alignstack.gateway.dialects.chat import CHAT
from alignstack.gateway.dialects.messages import MESSAGES
from alignstack.gateway.dialects.responses import RESPONSES
from alignstack.gateway.services import Services
from alignstack.telemetry.prometheus import CONTENT_TYPE
from alignstack.web import access
from alignstack.web.http import (
    JSON,
    Encoded,
    Gone,
    Receive,
    Scope,
    Send,
    TooLarge,
    TooSlow,
    body,
    encoded,
    header,
    line_of,
    respond,
)

log = logging.getLogger("alignstack.gateway")

ASK: dict[str, Dialect] = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
}
"""Routes that ask the model."""

METRICS = (b"content-type", CONTENT_TYPE.encode())
Handler = Callable[["Request"], Awaitable[None]]


class Request:
    """One HTTP request, its id made."""

    def __init__(self, gateway: "Gateway", scope: Scope, receive: Receive, send: Send) -> None:
        self.services = gateway.services
        self.settings = gateway.services.deployment.settings
        self.scope, self.receive, self.send = scope, receive, send
        self.path: str = scope["raw_path"].decode("ascii")
        """As it was sent: what stands in front sees the same."""
        self.method: str = scope["method"]
        self.id = self.services.ids(self.services.clock.now())
        self.started = False
        self.dialect: Dialect = ASK.get(self.path, CHAT)

    async def body(self) -> bytes:
        """Raises Refused (408, 413, 415) and Gone."""
        try:
            return await body(
                self.scope, self.receive, limit=self.settings.max_body_bytes, seconds=self.settings.body_seconds
            )
        except TooLarge:
            what = f"the request is larger than {self.settings.max_body_bytes} bytes"
            raise Refused(413, what, kind="invalid_request_error", code="request_too_large") from None
        except TooSlow:
            what = f"the request did not arrive within {self.settings.body_seconds:g} seconds"
            headers = {"connection": "close"}
            raise Refused(408, what, kind="invalid_request_error", code="request_timeout", headers=headers) from None
        except Encoded:
            what = "compressed requests are not read; send the JSON as it is, without Content-Encoding"
            raise Refused(415, what, kind="invalid_request_error", code="unsupported_encoding") from None

    async def sending(self, message: MutableMapping[str, Any]) -> None:
        if not self.started and self.settings.allowed_origins:
            message = {
                **message,
                "headers": [*message["headers"], *access.sharing(self.scope, self.settings.allowed_origins)],
            }
        self.started = True
        await self.send(message)

    async def json(self, content: bytes, status: int = 200) -> None:
        await respond(self.sending, status, content, [JSON, (b"x-request-id", self.id.encode())])

    async def refuse(self, problem: Refused) -> None:
        headers = [JSON, (b"x-request-id", self.id.encode()), *encoded(problem.headers)]
        await respond(self.sending, problem.status, self.dialect.error(problem), headers)

    def key(self, *, admin: bool = False) -> Key:
        """Who asks. Raises Refused (401, 403)."""
        ring, settings = self.services.ring, self.settings
        if not access.right_host(self.scope, settings.allowed_hosts, keys=ring.any):
            raise _forbidden("this gateway does not answer to that Host name; see `serve.allowed_hosts`")
        if not access.right_origin(self.scope, settings.allowed_origins):
            raise _forbidden("this gateway takes no requests from that web page; see `serve.allowed_origins`")
        found = self._known() if ring.any else ANYONE
        if found.suspended_until is not None and self.services.clock.now() < found.suspended_until:
            raise _forbidden("this key is suspended", code="key_suspended")
        if admin and not found.admin:
            raise _forbidden("this needs a key made with `alignstack keys add --admin`")
        return found

    def _known(self) -> Key:
        secret = access.credential(self.scope)
        found = self.services.ring.lookup(secret) if secret else None
        if found is not None:
            return found
        what = "the API key is not valid" if secret else "no API key; send it as `Authorization: Bearer KEY`"
        headers = {"www-authenticate": "Bearer"}
        raise Refused(401, what, kind="authentication_error", code="invalid_api_key", headers=headers)


def _forbidden(what: str, code: str = "") -> Refused:
    return Refused(403, what, kind="permission_error", code=code)


class Gateway:
    """Plain ASGI 3; `services` come with the lifespan (`alignstack.gateway.server`)."""

    services: Services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(self, scope, receive, send)
        try:
            await self._handle(request)
        except Gone:
            pass
        except Refused as problem:
            self.services.metrics.reject(route=_route(request.path), code=problem.status)
            await request.refuse(problem)
        except Exception as error:
            await self._fault(request, error)

    async def _handle(self, request: Request) -> None:
        if request.method == "OPTIONS" and access.sharing(request.scope, request.settings.allowed_origins):
            await respond(request.sending, 204, b"", access.PREFLIGHT)
            return
        handlers = ROUTES.get(request.path) or (MODEL if request.path.startswith("/v1/models/") else None)
        if handlers is None:
            raise Refused(404, f"there is no {request.path[:100]!r} here", kind="not_found_error", code="unknown_url")
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            headers = {"allow": ", ".join(sorted(handlers))}
            what = f"{request.path} takes {', '.join(sorted(handlers))}"
            raise Refused(405, what, kind="invalid_request_error", code="method_not_allowed", headers=headers)
        await handler(request)

    async def _fault(self, request: Request, error: Exception) -> None:
        """A fault of ours, or of a store. The client learns the request's id, the log the place, neither the texts."""
        if isinstance(error, Unavailable):
            problem = Refused(503, "the gateway cannot account for requests now", kind="server_error")
        else:
            problem = Refused(500, "the gateway failed", kind="server_error", code="internal_error")
        log.error("request %s failed: %s", request.id, _place(error))
        self.services.metrics.reject(route=_route(request.path), code=problem.status)
        if not request.started:
            await request.refuse(problem)


def _place(error: BaseException) -> str:
    """Type and line, without the message: it may quote what a client sent."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_place(inner) for inner in error.exceptions)
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}" if frames else type(error).__name__


def _route(path: str) -> str:
    """A label for metrics: never a client's own text."""
    return ASK[path].name if path in ASK else path.rpartition("/")[2] if path in ROUTES else "other"


async def ask(request: Request) -> None:
    key = request.key()
    call = request.dialect.decode(await request.body())
    parent = header(request.scope, b"traceparent") if request.services.spans is not None else ""
    exchange = Exchange(request.services, request.dialect, key, call, request.id, request.sending, traceparent=parent)
    request.services.metrics.enter()
    try:
        await exchange.run(request.receive, line_of(request.scope))
    finally:
        request.services.metrics.leave()


async def moderations(request: Request) -> None:
    key = request.key()
    await request.json(await moderate.moderate(request.services, key, await request.body(), request.id))


async def list_models(request: Request) -> None:
    request.key()
    await request.json(models.listed(request.services.deployment.stack.model.name, request.services.started))


async def one_model(request: Request) -> None:
    request.key()
    name = request.services.deployment.stack.model.name
    asked = request.scope["path"].removeprefix("/v1/models/")
    if asked != name:
        what = f"no model {asked[:100]!r}; here is {name!r}"
        raise Refused(404, what, kind="not_found_error", code="model_not_found")
    await request.json(models.one(name, request.services.started))


async def health(request: Request) -> None:
    """The process answers."""
    await request.json(b'{"status":"ok"}')


async def ready(request: Request) -> None:
    """It can take requests: it is not stopping, and what they use can be written down."""
    problem = "stopping" if request.services.draining else await request.services.problem()
    content = msgspec.json.encode({"status": problem or "ready"})
    await request.json(content, 503 if problem else 200)


async def metrics(request: Request) -> None:
    request.key(admin=True)
    if not request.settings.telemetry.prometheus:
        raise Refused(404, "metrics are switched off (`serve.telemetry.prometheus`)", kind="not_found_error")
    request.services.metrics.pending(request.services.writer.waiting)
    await respond(request.sending, 200, request.services.metrics.render(), [METRICS])


async def document(request: Request) -> None:
    await request.json(OPENAPI)


OPENAPI = msgspec.json.encode(openapi.document())
MODEL: dict[str, Handler] = {"GET": one_model}
ROUTES: dict[str, dict[str, Handler]] = {
    **{path: {"POST": ask} for path in ASK},
    "/v1/moderations": {"POST": moderations},
    "/v1/models": {"GET": list_models},
    "/health": {"GET": health},
    "/ready": {"GET": ready},
    "/metrics": {"GET": metrics},
    "/openapi.json": {"GET": document},
}
