"""Addresses that a client names for others to fetch: images, sounds, files, tool servers. The gateway never fetches
them; the model server may, from inside the operator's network.

Stops: addresses that name this machine, a private network or a cloud's metadata service, in any spelling of the
number, and schemes other than http and https; in every key of what is no text, since servers differ in the keys.
Does not stop: a public name that resolves to a private address; where that matters, `image_urls: data`.
"""

import ipaddress
import re
import socket
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from alignstack.core.messages import Conversation
from alignstack.gateway.call import bad_request

Rule = Literal["public", "data", "any"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LOCAL = tuple(".corp .home .home.arpa .internal .intranet .lan .local .localdomain .localhost .private .svc".split())
"""Ends of names that stand for machines of a network, not of the internet."""
READ = frozenset(
    "text refusal thinking reasoning reasoning_content title context filename name type detail arguments input".split()
)
"""Keys whose text is read and not fetched."""
CITED = "annotations"
"""What a model has cited in an earlier turn."""
NAMED = re.compile(r"(?:.*_)?ur[il]s?", re.IGNORECASE)
"""Keys whose text is an address, whatever it looks like."""
SCHEME = re.compile(
    r"[\x00-\x20]*(?:[a-z][a-z0-9+.-]*:[/\\]{2}|\\\\|(?:https?|ftp|file|data):)",
    re.IGNORECASE,
)
"""How a text begins that programs may take for an address. Not two slashes alone: sounds in base64 begin like that."""
HOST = re.compile(r"[\w.-]+")
NUMERIC = re.compile(r"(?:\d+|0x[0-9a-f]*)", re.IGNORECASE)
UNICAST = ipaddress.IPv6Network("2000::/3")
TUNNELS = tuple(ipaddress.IPv6Network(network) for network in ("2001::/32", "2002::/16"))
"""Addresses of IPv6 that hold one of IPv4."""


def check(messages: Conversation, more: str, rule: Rule) -> None:
    """`more`: the keys of the request that go to the model server as they came (JSON, perhaps empty). Raises Refused
    (400) for an address that the rule forbids."""
    if rule == "any":
        return
    for message in messages:
        if not message.media and not message.more:
            continue
        for text in (message.parts if message.media else "", message.more):
            for url in _addresses(msgspec.json.decode(text)) if text else ():
                _check(url, rule, "messages")
    if "url" in more or "uri" in more:
        for url in _named(msgspec.json.decode(more)):
            _check(url, rule, "")


def _addresses(value: Any, key: str = "") -> Iterable[str]:
    """Every text that is an address, by its key or by its looks."""
    return (text for name, text in _texts(value, key) if NAMED.fullmatch(name) or SCHEME.match(text))


def _named(value: Any) -> Iterable[str]:
    """Texts under a key that names an address. In schemas of tools there are others, which nobody fetches."""
    return (text for name, text in _texts(value, "") if NAMED.fullmatch(name))


def _texts(value: Any, key: str) -> Iterable[tuple[str, str]]:
    """All texts and their keys, less those that are read."""
    stack = [(key, value)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, list):
            stack += [(key, item) for item in value]
        elif isinstance(value, dict):
            stack += [(key, item) for key, item in value.items() if key != CITED and not _is_read(key, item)]


def _is_read(key: str, item: Any) -> bool:
    return isinstance(item, str) and key in READ


def _check(url: str, rule: Rule, param: str) -> None:
    if url[:5].lower() == "data:":
        return
    if rule == "data":
        raise bad_request("images must be part of the request (data: URLs); addresses are not fetched", param=param)
    if not is_public(url):
        raise bad_request("an address in a request must be a public http or https address", param=param)


def is_public(url: str) -> bool:
    """Programs differ in how they read an odd address: one that could be read in two ways is none."""
    if re.search(r"[\x00-\x20\x7f\\]", url) or url != url.strip():
        return False
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or "@" in parts.netloc:
        return False
    return _is_public_address(host) if "[" in parts.netloc else _is_public_name(host)


def _is_public_name(written: str) -> bool:
    """Full-width digits, circled letters and ideographic stops are plain ones to whoever looks the name up."""
    host = unicodedata.normalize("NFKC", written).replace("\u3002", ".").lower().removesuffix(".")
    if not HOST.fullmatch(host) or "" in (labels := host.split(".")):
        return False
    if any(map(NUMERIC.fullmatch, (labels[-1], host))):
        return _is_public_address(host)
    return len(labels) > 1 and not f".{host}".endswith(LOCAL)


def _is_public_address(host: str) -> bool:
    """In any spelling that programs take: `127.1`, `0x7f000001` and `2130706433` are 127.0.0.1 too."""
    try:
        address: Address = ipaddress.ip_address(host if ":" in host else socket.inet_aton(host))
    except (OSError, ValueError):
        return False
    if address.version == 6 and (address not in UNICAST or any(address in tunnel for tunnel in TUNNELS)):
        return False
    return address.is_global and not address.is_multicast
