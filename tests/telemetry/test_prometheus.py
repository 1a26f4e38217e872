import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from alignstack.core.events import Event, LayerError, LayerEvent, ModelEvent, OutcomeEvent, RequestEvent
from alignstack.core.messages import user
from alignstack.core.trace import Trace
from alignstack.core.verdict import ALLOW, Verdict
from alignstack.telemetry.prometheus import Metrics

SECRET = "the client's own words"

WORKER = """
import sys
from alignstack.core.events import OutcomeEvent
from alignstack.core.trace import Trace
from alignstack.telemetry.prometheus import Metrics

metrics = Metrics(version="1")
trace = Trace(id="t", stack="s", events=(OutcomeEvent(status="delivered", delivered="x", seconds=0.2),))
for _ in range(int(sys.argv[1])):
    metrics.enter()
    metrics.observe(trace, route="chat", status="delivered", first_token_s=0.1)
print("counted", flush=True)
if sys.stdin.readline() == "render\\n":
    sys.stdout.write(metrics.render().decode())
    sys.stdout.flush()
    sys.stdin.readline()
"""


def looked(layer: str, verdict: Verdict = ALLOW, *, mode: str = "enforce", seconds: float = 0.001) -> LayerEvent:
    return LayerEvent(
        layer=layer, phase="request", mode=mode, verdict=verdict, version="1", input_sha256="", seconds=seconds
    )


def generated(**changes: object) -> ModelEvent:
    said = {"text": SECRET, "finish": "stop", "input_tokens": 7, "output_tokens": 3, "cost": 0.25}
    return ModelEvent(model="m", version="1", input_sha256="", messages=user(SECRET), **(said | changes))


def a_trace(*events: Event) -> Trace:
    ends = OutcomeEvent(status="delivered", delivered=SECRET, seconds=0.5)
    return Trace(id="t", stack="s", events=(RequestEvent(messages=user(SECRET), caller=SECRET), *events, ends))


def samples(text: bytes) -> dict[str, float]:
    """Values by `name{label="value",…}`."""
    return {
        sample.name
        + "{"
        + ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
        + "}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def after(*traces: Trace, status: str = "delivered", first_token_s: float | None = 0.1) -> dict[str, float]:
    metrics = Metrics(version="1")
    for trace in traces:
        metrics.observe(trace, route="chat", status=status, first_token_s=first_token_s)
    return samples(metrics.render())


def test_a_request_is_counted_by_route_and_status() -> None:
    seen = after(a_trace(), a_trace(), status="blocked")
    assert seen["alignstack_requests_total{route=chat,status=blocked}"] == 2
    assert seen["alignstack_request_seconds_sum{route=chat}"] == 1.0


def test_every_look_of_a_layer_is_timed_and_its_verdict_counted_by_mode() -> None:
    block = Verdict(action="block", reason=SECRET)
    seen = after(a_trace(looked("in1"), looked("in1", block), looked("in1", block, mode="shadow")))
    assert seen["alignstack_layer_seconds_count{layer=in1,phase=request}"] == 3
    assert seen["alignstack_layer_verdicts_total{action=allow,layer=in1,mode=enforce}"] == 1
    assert seen["alignstack_layer_verdicts_total{action=block,layer=in1,mode=enforce}"] == 1
    assert seen["alignstack_layer_verdicts_total{action=block,layer=in1,mode=shadow}"] == 1


def test_a_layer_that_fails_is_no_verdict() -> None:
    error = LayerError(
        layer="in1",
        phase="request",
        mode="enforce",
        fault="timeout",
        on_error="block",
        message=SECRET,
        version="1",
        input_sha256="",
        seconds=1.0,
    )
    seen = after(a_trace(error))
    assert seen["alignstack_layer_errors_total{fault=timeout,layer=in1}"] == 1
    assert not [name for name in seen if name.startswith("alignstack_layer_verdicts_total{")]


def test_tokens_and_money_add_up_over_model_and_layers() -> None:
    seen = after(a_trace(looked("judge", Verdict(action="allow", cost=0.5)), generated()))
    assert seen["alignstack_tokens_total{direction=input}"] == 7
    assert seen["alignstack_tokens_total{direction=output}"] == 3
    assert seen["alignstack_cost_usd_total{}"] == 0.75


@pytest.mark.parametrize(("status", "label"), [(429, "429"), (0, "none")])
def test_an_answer_that_could_not_be_had_is_counted_by_http_status(status: int, label: str) -> None:
    seen = after(a_trace(generated(finish="unavailable", status=status)))
    assert seen[f"alignstack_upstream_errors_total{{status={label}}}"] == 1


def test_first_token_is_timed_only_when_text_left() -> None:
    assert after(a_trace(), first_token_s=None)["alignstack_first_token_seconds_count{}"] == 0
    assert after(a_trace(), first_token_s=0.2)["alignstack_first_token_seconds_sum{}"] == 0.2


def test_what_happens_outside_requests_is_counted_too() -> None:
    metrics = Metrics(version="1.2")
    metrics.enter()
    metrics.enter()
    metrics.leave()
    metrics.pending(4)
    metrics.reloaded(ok=False)
    metrics.signal("spike")
    metrics.reject(route="chat", code=401)
    seen = samples(metrics.render())
    assert seen["alignstack_in_flight{}"] == 1
    assert seen["alignstack_ledger_pending{}"] == 4
    assert seen["alignstack_reloads_total{result=failed}"] == 1
    assert seen["alignstack_abuse_signals_total{signal=spike}"] == 1
    assert seen["alignstack_rejected_total{code=401,route=chat}"] == 1
    assert [name for name in seen if name.startswith("alignstack_build_info{") and "version=1.2}" in name]


def test_nothing_that_clients_or_models_say_is_in_it() -> None:
    metrics = Metrics(version="1")
    block = Verdict(action="block", reason=SECRET, hazard=SECRET, categories={SECRET: 1.0})
    metrics.observe(a_trace(looked("in1", block), generated()), route="chat", status="blocked", first_token_s=None)
    assert SECRET.encode() not in metrics.render()


def test_two_processes_give_one_answer_and_the_dead_do_not_count_as_busy(tmp_path: Path) -> None:
    other, asked = worker(tmp_path, 2), worker(tmp_path, 3)
    end(other)
    forget(tmp_path, other.pid)
    seen = samples(end(asked, "render\n").encode())
    assert seen["alignstack_requests_total{route=chat,status=delivered}"] == 5
    assert seen["alignstack_first_token_seconds_count{}"] == 5
    assert seen["alignstack_in_flight{}"] == 3


def worker(folder: Path, requests: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [sys.executable, "-c", WORKER, str(requests)]
    process = subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == "counted\n"
    return process


def end(process: subprocess.Popen[str], told: str = "") -> str:
    output, errors = process.communicate(told, timeout=30)
    assert process.returncode == 0, errors
    return output


def forget(folder: Path, pid: int) -> None:
    """As the process that started the workers does it."""
    code = f"from alignstack.telemetry.prometheus import forget; forget({pid})"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
