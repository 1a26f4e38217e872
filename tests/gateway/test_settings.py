"""The `serve` mapping of a stack file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignstack.core.errors import ConfigError
from alignstack.core.usage import Allowance
from alignstack.engine.config import load_stack
from alignstack.engine.stack import Stack
from alignstack.gateway.settings import AbuseKeys, ActionKeys, LimitKeys, PersonLimitKeys, Settings, settings

SECRET = "hunter2-not-to-be-seen"


def stack(serve: Any) -> Stack:
    return replace(load_stack(), config={"serve": serve}, source="stack.yaml")


def problems(serve: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        settings(stack(serve))
    return {problem.where: problem.what for problem in caught.value.problems}


@pytest.mark.parametrize("serve", [None, {}])
def test_everything_has_a_default(serve: Any) -> None:
    assert settings(stack(serve)) == Settings()
    assert settings(load_stack()).limits.allowance == Allowance()
    assert settings(load_stack()).max_body_bytes == 10 * 1024 * 1024


def test_limits_become_an_allowance() -> None:
    serve = {"limits": {"requests_per_minute": 60, "usd_per_day": 1.5}}
    assert settings(stack(serve)).limits.allowance == Allowance(requests_per_minute=60, usd_per_day=1.5)


def test_every_problem_is_named_with_its_path_and_the_nearest_key() -> None:
    found = problems(
        {
            "limits": {"requests_per_minut": 5, "concurrent": 0},
            "traces": {"all_layers": 1.5},
            "abuse": {"actions": {"streak": ["suspnd"]}},
            "storage": "mysql://x",
            "image_urls": "publik",
        }
    )
    assert "did you mean 'requests_per_minute'" in found["stack.yaml: serve.limits.requests_per_minut"]
    assert "did you mean 'suspend'" in found["stack.yaml: serve.abuse.actions.streak[0]"]
    assert "did you mean 'public'" in found["stack.yaml: serve.image_urls"]
    assert found["stack.yaml: serve.storage"] == "should start with memory:// or redis:// or rediss://"
    assert {"stack.yaml: serve.limits.concurrent", "stack.yaml: serve.traces.all_layers"} < found.keys()


def test_the_mapping_must_be_a_mapping() -> None:
    assert "mapping" in problems(["limits"])["stack.yaml: serve"]


def test_variables_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE", "redis://127.0.0.1:1")
    assert settings(stack({"storage": "${STORE}"})).storage == "redis://127.0.0.1:1"
    monkeypatch.delenv("STORE")
    assert "'STORE' is not set" in problems({"storage": "${STORE}"})["stack.yaml: serve.storage"]


def test_a_webhook_action_needs_a_webhook() -> None:
    assert "webhook" in problems({"abuse": {"actions": {"spike": ["webhook"]}}})["stack.yaml: serve.abuse"]


def test_addresses_and_secrets_are_not_shown() -> None:
    serve = {
        "storage": f"redis://:{SECRET}@127.0.0.1",
        "ledger": f"postgresql://me:{SECRET}@127.0.0.1/db",
        "abuse": {"webhook": f"https://127.0.0.1/{SECRET}", "webhook_secret": SECRET},
        "telemetry": {"otlp_endpoint": f"https://{SECRET}@127.0.0.1"},
    }
    assert SECRET not in repr(settings(stack(serve)))


@pytest.mark.parametrize("key", ["storage", "ledger"])
def test_errors_do_not_show_them_either(key: str) -> None:
    assert SECRET not in str(problems({key: f"mysql://:{SECRET}@x"}))


def test_every_key_is_described() -> None:
    def check(schema: dict[str, Any]) -> None:
        assert all(entry.get("description") for entry in schema.get("properties", {}).values()), schema["title"]

    schema = Settings.model_json_schema()
    for model in [schema, *schema["$defs"].values()]:
        check(model)


def test_the_page_on_limits_has_a_valid_example_and_explains_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    assert settings(stack(yaml.safe_load(example)["serve"])).person_limits.requests_per_minute == 20
    models = (LimitKeys, PersonLimitKeys, AbuseKeys, ActionKeys)
    assert not [key for model in models for key in model.model_fields if key not in page]
