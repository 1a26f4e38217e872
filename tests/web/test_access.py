"""Who may connect."""

from typing import Any

import pytest

from alignstack.core.errors import ConfigError
from alignstack.web.access import check_bind, credential, hostname, is_loopback, right_host, right_origin


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]}


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "localhost.", "127.0.0.1", "127.9.8.7", "::1", "[::1]"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "2130706433",
        "127.1",
        "0x7f.1",
    ],
)
def test_others(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Localhost:8080", "localhost"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("example.com", "example.com"),
        ("example.com:", "example.com"),
        ("", ""),
        (":80", ""),
        ("localhost@evil.example", ""),
        ("evil.example#localhost", ""),
        ("evil.example\\@localhost", ""),
        ("http://localhost", ""),
        ("localhost/", ""),
        ("localhost:80:90", ""),
        ("local host", ""),
        ("[::1", ""),
        ("[localhost]", ""),
        ("localhost\xa0", ""),
    ],
)
def test_a_host_header_is_a_name_and_a_port_or_nothing(text: str, name: str) -> None:
    assert hostname(text) == name


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "gateway.example"])
def test_others_may_connect_only_with_keys(host: str) -> None:
    with pytest.raises(ConfigError, match="alignstack keys add"):
        check_bind(host, keys=False)
    check_bind(host, keys=True)
    check_bind("127.0.0.1", keys=False)


def test_without_keys_the_name_must_be_this_machine() -> None:
    assert right_host(scope(host="localhost:8080"), (), keys=False)
    assert not right_host(scope(host="evil.example"), (), keys=False)
    assert not right_host(scope(), (), keys=False)
    assert right_host(scope(host="evil.example"), (), keys=True)


def test_names_that_are_given_are_the_only_ones_and_this_machine() -> None:
    for keys in (False, True):
        assert right_host(scope(host="gateway.example:443"), ("gateway.example",), keys=keys)
        assert right_host(scope(host="127.0.0.1"), ("gateway.example",), keys=keys)
        assert not right_host(scope(host="evil.example"), ("gateway.example",), keys=keys)
        assert not right_host(scope(host="gateway.example.evil.example"), ("gateway.example",), keys=keys)


def test_pages_of_the_gateway_itself_and_those_that_are_named_may_call() -> None:
    assert right_origin(scope(host="localhost:80"), ())
    assert right_origin(scope(host="localhost:80", origin="http://localhost:80"), ())
    assert right_origin(scope(host="gateway.example", origin="https://gateway.example"), ())
    assert right_origin(scope(host="localhost", origin="https://chat.example"), ("https://chat.example",))


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "https://chat.example.evil.example",
        "localhost",
        "//localhost",
        "x://localhost",
        "http://localhost:81",
        "http://",
        "https://chat.example/",
    ],
)
def test_other_pages_may_not(origin: str) -> None:
    assert not right_origin(scope(host="localhost", origin=origin), ("https://chat.example",))
    assert not right_origin(scope(origin=origin), ())


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer   abc  "}, "abc"),
        ({"authorization": "Basic abc"}, ""),
        ({"authorization": "Basic abc", "x_api_key": "def"}, "def"),
        ({"authorization": "Bearer abc", "x_api_key": "def"}, "abc"),
        ({"authorization": "Bearer"}, ""),
        ({"x_api_key": " def "}, "def"),
        ({}, ""),
    ],
)
def test_the_key_is_where_the_sdks_put_it(headers: dict[str, str], secret: str) -> None:
    assert credential(scope(**headers)) == secret
