import base64
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from alignstack.core.events import LayerError, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.messages import Message, ToolCall, user
from alignstack.core.trace import Trace
from alignstack.core.verdict import Verdict
from alignstack.store.codec import TRACE, encode
from alignstack.store.redact import SIGNS, redact, without_secrets

BODY = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V"
"""Put together with their beginnings here, so that no scanner takes this file for a leak."""

SECRETS = (
    "sk-" + "as-" + BODY,
    "sk-" + "as-" + "Letters_only-" * 4,
    "sk-" + "proj-" + BODY,
    "sk-" + "ant-api03-" + BODY,
    "sk-" + BODY,
    "AK" + "IAIOSFODNN7EXAMPLE",
    "gh" + "p_" + BODY[:36],
    "github" + "_pat_" + BODY,
    "xo" + "xb-123456789012-" + BODY[:24],
    "xa" + "pp-1-" + BODY,
    "AI" + "za" + BODY[:35],
    "ya" + "29." + BODY,
    "ey" + "JhbGciOiJIUzI1NiJ9." + BODY + "." + BODY,
    f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n{BODY}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{BODY}\ncut off",
)

PARTLY = {
    f"Authorization: Bearer {BODY}": "Authorization: Bearer [secret]",
    f"authorization: bearer  {BODY}": "authorization: bearer  [secret]",
    "postgresql://me:open-sesame@db.example/x": "postgresql://me:[secret]@db.example/x",
    "redis://:open-sesame@10.0.0.1:6379": "redis://:[secret]@10.0.0.1:6379",
    f'aws_secret_access_key = "{BODY[:40]}"': 'aws_secret_access_key = "[secret]"',
    f"https://hooks.slack.com/services/T00000000/B00000000/{BODY}": "https://hooks.slack.com/services/[secret]",
}

ORDINARY = (
    "Which task-management tool scales best for the bearer of a token?",
    "from sk-learn import everything-that-is-there-and-more",
    "See https://example.com:8080/path?x=1@2 and http://me@example.com/",
    "The standard bearer internationalization committee",
    "eyJust a word. -----BEGIN CERTIFICATE----- AKIA xoxo ghp_short",
    "x" * 2000,
)


def layer(**verdict: Any) -> LayerEvent:
    said = Verdict(**{"action": "modify", **verdict})
    return LayerEvent(layer="in1", phase="request", mode="enforce", verdict=said, version="v", input_sha256="0")


def trace(text: str, parts: str = "") -> Trace:
    """`text` wherever a trace can hold one."""
    message = Message(
        role="user", content=text, parts=parts, calls=(ToolCall(id="c", name="t", arguments=json.dumps({"q": text})),),
        more=json.dumps({"name": text}),
    )  # fmt: skip
    failed = LayerError(layer="in2", phase="request", mode="enforce", fault="error", on_error="allow", message=text,
                        version="v", input_sha256="0")  # fmt: skip
    model = ModelEvent(model="m", version="v", input_sha256="0", messages=(message,), text=text, finish="stop",
                       message=text)  # fmt: skip
    seen = layer(reason=text, messages=(message,), text=text)
    events = (RequestEvent(messages=(message,), caller="key-1"), seen, failed, model)
    return Trace(id="t", stack="s", events=(*events, OutcomeEvent(status="delivered", delivered=text)))


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_taken_out_of_every_text(secret: str) -> None:
    redacted = redact(trace(f"My key is {secret}"), content=True)
    written = encode(TRACE, redacted)
    assert BODY[:20] not in written and secret not in written
    assert redacted.request.messages[0].content == "My key is [secret]"
    assert json.loads(redacted.request.messages[0].calls[0].arguments) == {"q": "My key is [secret]"}
    assert written.count("My key is [secret]") == 15


@pytest.mark.parametrize(("text", "left"), PARTLY.items())
def test_what_stands_before_a_secret_stays(text: str, left: str) -> None:
    assert without_secrets(text) == left


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    whole = trace(text)
    assert redact(whole, content=True) == whole


def test_trace_without_secrets_is_not_even_copied() -> None:
    whole = trace("Where do I put my keys?")
    assert redact(whole, content=True) is whole


@pytest.mark.parametrize("secret", [*SECRETS, *PARTLY])
def test_quick_look_misses_no_secret(secret: str) -> None:
    assert SIGNS.search(secret)


@pytest.mark.parametrize(
    "secret",
    [
        "xo" + "xb-" + "a" * 10,
        "xa" + "pp-" + "é" * 10,
        "sk-" + "é1" * 10,
        "bearer " + "1" * 16,
        "Bearer\n\t" + "a" * 15 + "1",
        "AK" + "IA" + "A" * 16,
        "-----BEGIN " + "PRIVATE KEY-----",
        "://:x@",
        "://a:b@c",
    ],
)
def test_shortest_secrets_are_found_anywhere(secret: str) -> None:
    for around in (f"a {secret}", f"({secret} b", f"é\n{secret}"):
        assert "[secret]" in without_secrets(around)
        assert redact(trace(around), content=True).request.messages[0].content == without_secrets(around)


def test_texts_are_found_at_any_depth() -> None:
    for event in trace("sk-" + BODY).events:
        alone = Trace(id="t", stack="s", events=(event,))
        assert redact(alone, content=True) != alone


def test_long_json_is_looked_through() -> None:
    whole = trace("x", json.dumps([{"type": "file", "file": {"file_data": ENCODED}}]))
    assert redact(whole, content=True) is not whole


PICTURE = bytes(range(256)) * 8
ENCODED = base64.b64encode(PICTURE).decode()
INSTEAD = f"sha256:{sha256(PICTURE).hexdigest()} (2048 bytes)"


@pytest.mark.parametrize(
    ("part", "left"),
    [
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{ENCODED}"}},
            {"type": "image_url", "image_url": {"url": INSTEAD}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": ENCODED, "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": INSTEAD, "format": "wav"}},
        ),
        (
            {"type": "file", "file": {"file_data": base64.urlsafe_b64encode(PICTURE).decode().rstrip("=")}},
            {"type": "file", "file": {"file_data": INSTEAD}},
        ),
    ],
)
def test_files_are_replaced_by_their_digest(part: dict[str, Any], left: dict[str, Any]) -> None:
    parts = [{"type": "text", "text": "What is this?"}, part]
    redacted = redact(trace("What is this?", json.dumps(parts)), content=True)
    assert json.loads(redacted.request.messages[0].parts) == [parts[0], left]
    assert ENCODED[:100] not in encode(TRACE, redacted)


def test_links_to_pictures_and_texts_stay() -> None:
    link = {"type": "image_url", "image_url": {"url": "https://example.com/" + "a" * 600}}
    whole = trace("x", json.dumps([link, {"type": "text", "text": ENCODED}]))
    assert redact(whole, content=True) == whole


def test_without_content_a_digest_and_the_length_stay() -> None:
    whole = trace("a private matter", json.dumps([{"type": "text", "text": "a private matter"}]))
    redacted = redact(whole, content=False)
    left = f"sha256:{sha256(b'a private matter').hexdigest()} (16 characters)"
    assert "private" not in encode(TRACE, redacted)
    assert redacted.request.messages[0].content == left
    assert json.loads(redacted.request.messages[0].parts) == [{"type": "text", "text": left}]
    assert [event.event for event in redacted.events] == [event.event for event in whole.events]


def test_without_content_all_that_is_no_text_stays() -> None:
    seen = layer(action="block", score=0.5, threshold=0.4, hazard="ncr", categories={"ncr": 0.5}, text="gone")
    whole = Trace(
        id="t", stack="s", stack_source="built-in", events=(RequestEvent(messages=user(""), caller="k"), seen)
    )
    (request, kept) = redact(whole, content=False).events
    assert request == whole.events[0], "nothing is nothing"
    assert isinstance(kept, LayerEvent) and replace(kept.verdict, text="gone") == seen.verdict


def test_text_that_is_no_unicode_has_a_digest_too() -> None:
    assert "sha256:" in redact(trace("half \ud800"), content=False).request.messages[0].content


@pytest.mark.parametrize(
    "text",
    ["sk-" * 100_000, "eyJ-" * 100_000, "://" * 100_000, "://a:" * 100_000, "bearer " * 50_000, "-----BEGIN " * 50_000,
     "secret_access_key=" * 20_000, "hooks.slack.com/" + "a/" * 100_000, " " * 300_000 + "bearer" + " " * 300_000],
)  # fmt: skip
def test_hostile_text_costs_no_more_than_its_length(text: str) -> None:
    without_secrets(text)
