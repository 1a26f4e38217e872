import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes, server_attributes

from alignstack.core.events import Event, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.messages import user
from alignstack.core.trace import Trace
from alignstack.core.verdict import ALLOW
from alignstack.telemetry import conventions


def constants(*modules: object) -> set[str]:
    return {value for module in modules for value in vars(module).values() if isinstance(value, str)}


def test_names_are_those_of_the_conventions_or_our_own() -> None:
    known = constants(gen_ai_attributes, gen_ai_metrics, error_attributes, server_attributes)
    names = {value for key, value in vars(conventions).items() if key.isupper() and isinstance(value, str)}
    assert len(names) > 20
    assert not {name for name in names - known if not name.startswith("alignstack.")}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            {"use": "openai_http", "base_url": "https://me:secret@api.test/v1?key=secret"},
            conventions.Upstream(provider="openai", address="api.test", port=443),
        ),
        (
            {"use": "openai_http", "base_url": "http://127.0.0.1:8000/v1"},
            conventions.Upstream(provider="openai", address="127.0.0.1", port=8000),
        ),
        ({"use": "anthropic_http"}, conventions.Upstream(provider="anthropic")),
        ({"use": "embedded"}, conventions.Upstream(provider="alignstack")),
        ({"use": "openai_http", "base_url": "http://${HOST}:8000/v1"}, conventions.Upstream(provider="openai")),
        ({"use": "openai_http", "base_url": "http://[/v1"}, conventions.Upstream(provider="openai")),
    ],
)
def test_of_an_upstream_only_provider_host_and_port_are_told(
    model: dict[str, str], expected: conventions.Upstream
) -> None:
    assert conventions.upstream(model) == expected


def looked(layer: str, phase: str, seconds: float, *, mode: str = "enforce", at_token: int | None = None) -> LayerEvent:
    return LayerEvent(
        layer=layer,
        phase=phase,
        mode=mode,
        verdict=ALLOW,
        version="1",
        input_sha256="",
        at_token=at_token,
        seconds=seconds,
    )


def starts(*events: Event, total: float) -> dict[str, float]:
    messages = user("hi")
    said = ModelEvent(
        model="m",
        version="1",
        input_sha256="",
        messages=messages,
        text="yes",
        finish="stop",
        output_tokens=4,
        seconds=2,
    )
    ends = OutcomeEvent(status="delivered", delivered="yes", seconds=total)
    trace = Trace(id="t", stack="s", events=(RequestEvent(messages=messages), *events, said, ends))
    return {event.layer if isinstance(event, LayerEvent) else "model": at for event, at in conventions.placed(trace)}


def test_the_model_begins_when_what_is_waited_for_before_it_is_done() -> None:
    early = (
        looked("fast", "request", 0.25),
        looked("slow", "prompt", 0.5),
        looked("shadow", "request", 9, mode="shadow"),
    )
    assert starts(*early, total=2.5) == {"fast": 0, "slow": 0, "shadow": 0, "model": 0.5}


def test_a_model_that_raced_the_request_layers_lies_within_the_request() -> None:
    assert starts(looked("slow", "request", 2), total=2.0)["model"] == 0


def test_a_look_at_a_stream_begins_when_its_tokens_were_there() -> None:
    looks = looked("half", "output", 0.1, at_token=2), looked("whole", "output", 0.1)
    placed = starts(*looks, total=2.1)
    assert placed["half"] == pytest.approx(placed["model"] + 1)
    assert placed["whole"] == pytest.approx(placed["model"] + 2)
