"""Which addresses a client may name for others to fetch."""

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest

from alignstack.gateway.call import Dialect, Refused
from alignstack.gateway.dialects.chat import CHAT
from alignstack.gateway.dialects.messages import MESSAGES
from alignstack.gateway.dialects.responses import RESPONSES
from alignstack.gateway.images import Rule, check, is_public

PUBLIC = [
    "https://example.com/cat.png",
    "http://example.com:8080/cat.png?size=1#top",
    "HTTPS://EXAMPLE.COM./cat.png",
    "https://8.8.8.8/cat.png",
    "https://[2606:4700::6810:84e5]/cat.png",
    "https://bücher.example/katze.png",
    "https://例え.テスト/猫.png",
    "https://1password.com/cat.png",
    "https://127.0.0.1.example.com/",
    "https://example.com/%20a%2e.png",
]

LOOPBACK = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://127.0.0.1./",
    "http://127.0.0.1:80/",
    "http://0/",
    "http://0.0.0.0/",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[::1%25lo]/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://a.localhost/",
    "http://localhost.localdomain/",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://127\uff0e0\uff0e0\uff0e1/",
    "http://127｡0｡0｡1/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://127%2e0%2e0%2e1/",
    "http://127%2e0.0.1/",
    "http://%6c%6f%63alhost/",
]

PRIVATE = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[fe80::1]/",
    "http://metadata.google.internal/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://0xa9fea9fe/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://[ff02::1]/",
    "http://255.255.255.255/",
    "http://printer.local/",
    "http://ollama/",
    "http://api.default.svc/",
    "http://api.default.svc.cluster.local/",
]

ODD = [
    "",
    "   ",
    "http://",
    "http:///etc/passwd",
    "//127.0.0.1/",
    "/etc/passwd",
    "file:///etc/passwd",
    "FILE:/etc/passwd",
    "gopher://example.com/",
    "ftp://example.com/cat.png",
    "dict://example.com:11211/",
    "javascript:alert(1)",
    "jar:http://example.com!/",
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://@example.com/",
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http:\\\\127.0.0.1\\",
    "http://127.0.0.1\t.example.com/",
    "http://127.0.\n0.1/",
    "http://exam\rple.com/",
    "http://example.com/ \r\nHost: 127.0.0.1",
    " http://example.com/",
    "http://example.com\u3000/",
    "\u00a0http://example.com/",
    "http://example.com\x00.evil.example/",
    "http://example.com:99999/",
    "http://example.com:port/",
    "http://[::1/",
    "http://[v1.fe80]/",
    "http://example..com/",
    "http://.example.com/",
    "http://256.256.256.256/",
    "http://127.0.0.0x100000001/",
    "http://1.2.3.4.5/",
    "http://0x100000000007f000001/",
    "http:127.0.0.1/",
    "http:/127.0.0.1/",
]


@pytest.mark.parametrize("url", PUBLIC)
def test_public_addresses_may_be_named(url: str) -> None:
    assert is_public(url)


@pytest.mark.parametrize("url", [*LOOPBACK, *PRIVATE, *ODD])
def test_no_spelling_of_another_address_may_be_named(url: str) -> None:
    assert not is_public(url)


def chat(part: dict[str, Any], **turn: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, part], **turn}]}


def responses(part: dict[str, Any]) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [part]}]}


def messages(block: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}


def url(kind: str, address: str) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "url", "url": address}}


Request = tuple[Dialect, dict[str, Any]]
PLACES: dict[str, Callable[[str], Request]] = {
    "chat image": lambda u: (CHAT, chat({"type": "image_url", "image_url": {"url": u}})),
    "chat image as a text": lambda u: (CHAT, chat({"type": "image_url", "image_url": u})),
    "chat image in a text": lambda u: (CHAT, chat({"type": "text", "text": "x", "image_url": {"url": u}})),
    "chat video": lambda u: (CHAT, chat({"type": "video_url", "video_url": u})),
    "chat audio": lambda u: (CHAT, chat({"type": "input_audio", "input_audio": {"data": u, "format": "wav"}})),
    "chat file": lambda u: (CHAT, chat({"type": "file", "file": {"file_data": u}})),
    "chat file by id": lambda u: (CHAT, chat({"type": "file", "file": {"file_id": u}})),
    "chat part of another kind": lambda u: (CHAT, chat({"type": "image", "image": [u]})),
    "chat turn": lambda u: (CHAT, chat({"type": "text", "text": "x"}, images=[u])),
    "chat tool server": lambda u: (CHAT, chat({"type": "text", "text": "x"}) | {"tools": [{"server_url": u}]}),
    "responses image": lambda u: (RESPONSES, responses({"type": "input_image", "image_url": u})),
    "responses file": lambda u: (RESPONSES, responses({"type": "input_file", "file_url": u})),
    "responses output": lambda u: (
        RESPONSES,
        {
            "input": [
                {
                    "type": "function_call_output",
                    "call_id": "1",
                    "output": [{"type": "input_image", "image_url": u}],
                }
            ]
        },
    ),
    "messages image": lambda u: (MESSAGES, messages(url("image", u))),
    "messages document": lambda u: (MESSAGES, messages(url("document", u))),
    "messages result": lambda u: (
        MESSAGES,
        messages({"type": "tool_result", "tool_use_id": "1", "content": [url("image", u)]}),
    ),
    "messages block of another kind": lambda u: (MESSAGES, messages({"type": "web_fetch", "from": {"uri": u}})),
    "messages tool server": lambda u: (
        MESSAGES,
        messages({"type": "text", "text": "x"}) | {"mcp_servers": [{"type": "url", "url": u}]},
    ),
}


def ask(place: str, address: str, rule: Rule) -> None:
    dialect, body = PLACES[place](address)
    call = dialect.decode(json.dumps(body).encode())
    check(call.messages, call.sampling.more, rule)


@pytest.mark.parametrize("place", PLACES)
def test_wherever_an_address_stands_it_is_looked_at(place: str) -> None:
    for address in ("http://169.254.169.254/", "file:///etc/passwd", "http:127.0.0.1/", "\\\\127.0.0.1\\c$"):
        with pytest.raises(Refused, match="public http or https") as refused:
            ask(place, address, "public")
        assert refused.value.status == 400
    ask(place, "https://example.com/cat.png", "public")


@pytest.mark.parametrize("place", PLACES)
def test_only_the_request_itself_may_hold_images_where_the_operator_says_so(place: str) -> None:
    with pytest.raises(Refused, match="not fetched"):
        ask(place, "https://example.com/cat.png", "data")
    ask(place, "data:image/png;base64,AAAA", "data")


@pytest.mark.parametrize("place", PLACES)
def test_any_address_may_be_named_where_the_operator_says_so(place: str) -> None:
    ask(place, "http://10.0.0.1/cat.png", "any")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "http://127.0.0.1/ is what I wrote"},
        {"type": "input_audio", "input_audio": {"data": "AAAA//8=", "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "//uQxAAAAAAAAAAAAAAAAAAAAAAA", "format": "mp3"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "file", "file": {"filename": "C:/letters/file: to print.pdf", "file_data": "data:application/pdf,"}},
    ],
)
def test_what_is_no_address_is_left_alone(part: dict[str, Any]) -> None:
    call = CHAT.decode(json.dumps(chat({"type": "image_url", "image_url": {"url": "data:,"}}) | chat(part)).encode())
    check(call.messages, call.sampling.more, "public")


def test_what_models_cited_and_tools_were_asked_is_left_alone() -> None:
    call = {"id": "1", "type": "custom", "custom": {"name": "fetch", "input": "http://10.0.0.1/"}}
    cited = {"annotations": [{"type": "url_citation", "url_citation": {"url": "http://10.0.0.1/"}}]}
    turn = {"role": "assistant", "content": "x", "tool_calls": [call], "reasoning_content": "http://10.0.0.1/", **cited}
    asked = CHAT.decode(json.dumps({"messages": [turn]}).encode())
    for rule in get_args(Rule):
        check(asked.messages, asked.sampling.more, rule)


def test_addresses_in_schemas_of_tools_are_left_alone() -> None:
    schema = {
        "$schema": "http://localhost/schema",
        "properties": {"url": {"type": "string", "default": "http://10.1/"}},
    }
    tool = {"type": "function", "function": {"name": "fetch", "parameters": schema}}
    call = CHAT.decode(json.dumps({"messages": [{"role": "user", "content": "x"}], "tools": [tool]}).encode())
    check(call.messages, call.sampling.more, "public")


def test_depth_is_no_way_round() -> None:
    nested: Any = {"url": "http://127.0.0.1/"}
    for _ in range(480):
        nested = [nested]
    call = CHAT.decode(json.dumps(chat({"type": "image_url", "image_url": nested})).encode())
    with pytest.raises(Refused):
        check(call.messages, call.sampling.more, "public")
