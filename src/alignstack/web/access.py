"""Who may connect: addresses to listen on, names to answer to, pages that may call, credentials.

Stops: a gateway without keys that listens to the whole network; web pages that reach a gateway on the visitor's own
machine, directly (Origin) or through a name of theirs that resolves to it (Host, "DNS rebinding").
Does not stop: programs on the same machine, when there are no keys.
"""

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache

from alignstack.core.errors import ConfigError, Problem
from alignstack.web.http import Scope, header

HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")

NAMES = 64
"""Names that are remembered; clients use few, and a strange one may have 64 KiB."""


@lru_cache(maxsize=NAMES)
def is_loopback(host: str) -> bool:
    """`host` is a name or an address, without port."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(host: str, *, keys: bool) -> None:
    """Raises ConfigError for a gateway that anyone in the network could use."""
    if keys or is_loopback(host):
        return
    what = (
        f"{host!r} is reachable from other machines, and there are no keys: anyone could use the model. "
        "Make one with `alignstack keys add NAME`, or listen on 127.0.0.1"
    )
    raise ConfigError([Problem(where="--host", what=what)])


@lru_cache(maxsize=NAMES)
def hostname(text: str) -> str:
    """The name in a Host header, in lower case; empty for what is no name with or without a port."""
    found = HOST.fullmatch(text)
    return found[1].strip("[]").lower() if found else ""


def right_host(scope: Scope, allowed: Collection[str], *, keys: bool) -> bool:
    """Was the gateway called by a name it answers to? Without keys and without `allowed` those are loopback names:
    then the name is all that tells a local program from a web page that rebinds its own."""
    host = hostname(header(scope, b"host"))
    if allowed:
        return host in allowed or is_loopback(host)
    return keys or is_loopback(host)


def right_origin(scope: Scope, allowed: Collection[str]) -> bool:
    """Programs send no Origin; pages do, and only those of the gateway itself or of `allowed` may call."""
    origin, host = header(scope, b"origin"), header(scope, b"host")
    return not origin or origin in allowed or (host != "" and origin in (f"http://{host}", f"https://{host}"))


PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, *"),  # the SDKs add many of their own; `*` leaves that one out
    (b"access-control-max-age", b"600"),
]
"""What a browser asks before it lets a page call."""


def sharing(scope: Scope, allowed: Collection[str]) -> list[tuple[bytes, bytes]]:
    """Headers by which a browser lets a page of `allowed` read the answer; none for others."""
    origin = header(scope, b"origin")
    if origin not in allowed:
        return []
    names = (b"access-control-expose-headers", b"x-request-id")
    return [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin"), names]


def credential(scope: Scope) -> str:
    """The secret that the client sent: `Authorization: Bearer …` (OpenAI) or `x-api-key` (Anthropic)."""
    scheme, _, token = header(scope, b"authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else header(scope, b"x-api-key").strip()
