"""A running gateway against what its OpenAPI document promises: requests that the document allows, and others."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from alignstack.gateway.openapi import document

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ALL = [(path, method) for path, item in document()["paths"].items() for method in ("get", "post") if method in item]
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CASES = [
    *(pytest.param(*names, POSITIVE, id=f"allowed by {names[0]}") for names in ALL),
    *(pytest.param(*names, NEGATIVE, id=f"not by {names[0]}") for names in ALL if names[1] == "post"),
]
EXAMPLES = 25
"""Of each kind for each operation."""
PATIENCE_S = 30.0
STACK = """
model: {use: scripted, default: fine and dandy}
layers:
  - {use: keyword, phase: request, patterns: [phishing, "0"]}
  - {use: keyword, name: out1, phase: output, patterns: [malware]}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway in a process of its own."""
    folder = tmp_path_factory.mktemp("gateway")
    stack = folder / "stack.yaml"
    stack.write_text(STACK)
    command = [sys.executable, "-m", "alignstack.cli", "serve", "--stack", str(stack), "--port", "0", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNSTACK_HOME", str(folder))
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = next(line for line in process.stdout if b'"url"' in line)
    url = told.decode().split('"')[3].removesuffix("/v1")
    until_ready(url)
    yield url
    process.terminate()
    process.wait(PATIENCE_S)
    process.stdout.close()


def until_ready(url: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            requests.get(f"{url}/ready", timeout=PATIENCE_S).raise_for_status()
            return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise TimeoutError


@pytest.fixture(scope="module")
def schema(running: str) -> Any:
    return schemathesis.openapi.from_url(f"{running}/openapi.json")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_the_gateway_does_what_the_document_says(
    running: str, schema: Any, session: requests.Session, path: str, method: str, mode: GenerationMode
) -> None:
    operation = schema[path][method.upper()]

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        response = case.call(base_url=running, session=session, timeout=PATIENCE_S)
        case.validate_response(response, checks=CHECKS)

    holds()
