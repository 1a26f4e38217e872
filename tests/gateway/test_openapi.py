"""The document against schemathesis, which reads it, and against the dialects, which must agree with it."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignstack.core.ports import Delta
from alignstack.gateway.call import Call, Choice, Dialect, Ending, Head, bad_request
from alignstack.gateway.dialects import models, moderations
from alignstack.gateway.dialects.chat import CHAT
from alignstack.gateway.dialects.messages import Messages
from alignstack.gateway.dialects.moderations import Scored
from alignstack.gateway.dialects.responses import Responses
from alignstack.gateway.openapi import document
from alignstack.policy import load

SCHEMA = schemathesis.openapi.from_dict(document())
HEAD = Head(id="abc", created=1.0, model="tiny")
ANSWER = Choice(pieces=[Delta(text="hi")], ending=Ending(input_tokens=1, output_tokens=1))
DIALECTS: dict[str, Dialect] = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": Responses(),
    "/v1/messages": Messages(),
}
DECODERS: dict[str, Callable[[bytes], Any]] = {
    **{path: dialect.decode for path, dialect in DIALECTS.items()},
    "/v1/moderations": moderations.decode,
}
READ = {"/v1/models", "/v1/models/{model}", "/health", "/ready", "/metrics", "/openapi.json"}
STATUSES = {"200", "400", "401", "403", "405", "408", "413", "415", "429", "500", "503"}


def component(name: str) -> jsonschema_rs.Validator:
    whole = document()
    return jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": whole["components"]})


def operation(path: str, method: str = "post") -> dict[str, Any]:
    found: dict[str, Any] = document()["paths"][path][method]
    return found


def answer_schema(path: str, status: str, method: str = "post") -> jsonschema_rs.Validator:
    schema = operation(path, method)["responses"][status]["content"]["application/json"]["schema"]
    return component(schema["$ref"].rpartition("/")[2])


def test_schemathesis_finds_nothing_wrong_with_it() -> None:
    SCHEMA.validate()
    assert {path: set(SCHEMA[path]) - {"parameters"} for path in SCHEMA} == {
        **{path: {"post"} for path in DECODERS},
        **{path: {"get"} for path in READ},
    }


@pytest.mark.parametrize("path", DECODERS)
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_body_that_it_allows_is_read(path: str, data: st.DataObject) -> None:
    case = data.draw(SCHEMA[path]["POST"].as_strategy())
    DECODERS[path](json.dumps(case.body).encode())


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("ChatRequest", {"messages": []}),
        ("ChatRequest", {"messages": [{"role": "user", "content": None}]}),
        ("ChatRequest", {"messages": [{"role": "user", "content": "hi"}], "n": 17}),
        ("MessagesRequest", {"messages": [{"role": "user", "content": "hi"}]}),
        ("ModerationRequest", {"input": []}),
    ],
)
def test_a_body_that_would_be_refused_is_not_allowed(name: str, body: dict[str, Any]) -> None:
    assert not component(name).is_valid(body)


@pytest.mark.parametrize("path", DIALECTS)
def test_answers_and_errors_are_as_it_says(path: str) -> None:
    dialect = DIALECTS[path]
    answer_schema(path, "200").validate(json.loads(dialect.whole(Call(messages=()), HEAD, [ANSWER])))
    answer_schema(path, "400").validate(json.loads(dialect.error(bad_request("no"))))


def test_models_and_moderations_are_as_it_says() -> None:
    scores = moderations.whole([Scored()], id="abc", model="tiny", policy=load())
    answer_schema("/v1/moderations", "200").validate(json.loads(scores))
    answer_schema("/v1/models", "200", "get").validate(json.loads(models.listed("tiny")))
    answer_schema("/v1/models/{model}", "200", "get").validate(json.loads(models.one("tiny")))


@pytest.mark.parametrize("path", DECODERS)
def test_every_way_to_fail_is_listed(path: str) -> None:
    upstream = {"502", "504"} if path in DIALECTS else set()
    assert set(operation(path)["responses"]) == STATUSES | upstream
