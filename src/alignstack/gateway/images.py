"""Addresses of images that a client names. The gateway never fetches them; the model server may, from inside the
operator's network.

Stops: addresses that name this machine, a private network or a cloud's metadata service, in any spelling of the
number, and schemes other than http and https.
Does not stop: a public name that resolves to a private address; where that matters, `image_urls: data`.
"""

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from alignstack.core.messages import Conversation
from alignstack.gateway.call import bad_request

Rule = Literal["public", "data", "any"]
LOCAL = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


def check(messages: Conversation, rule: Rule) -> None:
    """Raises Refused (400) for an address that the rule forbids."""
    if rule == "any":
        return
    for message in messages:
        if message.media:
            for url in _urls(msgspec.json.decode(message.parts)):
                _check(url, rule)


def _urls(value: Any) -> Iterable[str]:
    """Every text under a key that names an address."""
    if isinstance(value, list):
        for item in value:
            yield from _urls(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and key in ("url", "image_url", "file_url"):
                yield item
            else:
                yield from _urls(item)


def _check(url: str, rule: Rule) -> None:
    if url[:5].lower() == "data:":
        return
    if rule == "data":
        raise bad_request(
            "images must be part of the request (data: URLs); addresses are not fetched", param="messages"
        )
    if not is_public(url):
        raise bad_request("an image's address must be a public http or https address", param="messages")


def is_public(url: str) -> bool:
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").rstrip(".").lower()
    except ValueError:
        return False
    if parts.scheme.lower() not in ("http", "https") or not host or parts.username is not None or "\\" in url:
        return False
    address = _address(host)
    if address is None:
        return "." in host and not host.endswith(LOCAL)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_global and not address.is_multicast


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in any of the spellings that programs take: `127.1`, `0x7f000001` and `2130706433` are all 127.0.0.1."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None
