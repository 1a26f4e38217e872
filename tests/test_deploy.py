"""The files in deploy/ fit the program: commands parse, stacks load, metrics and variables exist."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from alignstack.cli import cli
from alignstack.engine.config import load_stack
from alignstack.gateway.settings import settings
from alignstack.telemetry.prometheus import Metrics

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((DEPLOY / "grafana" / "alignstack.json").read_text(encoding="utf-8"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")


def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "alignstack.service", encoding="utf-8")
    return parser


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of `alignstack` that something in deploy/ starts."""
    image = re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.M)
    assert image
    yield "Dockerfile", json.loads(image[1])
    yield "compose.yaml", COMPOSE["services"]["gateway"]["command"]
    yield "alignstack.service", shlex.split(unit()["Service"]["ExecStart"])[1:]


@pytest.mark.parametrize(("file", "words"), list(commands()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_program_takes_every_command_line(file: str, words: list[str]) -> None:
    name, *arguments = words
    command = cli.commands[name]
    with click.Context(cli, info_name="alignstack") as parent:
        command.make_context(name, arguments, parent=parent)


def test_the_image_is_built_from_what_is_there_and_without_torch() -> None:
    copied = [word for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.M) for word in line.split()[:-1]]
    assert copied
    assert not [word for word in copied if not (ROOT / word).exists()]
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{word}" for word in copied} <= set(sent)
    extras = re.search(r"'\.\[(.*)\]'", DOCKERFILE)
    assert extras
    assert set(extras[1].split(",")) == {"fast", "otel", "postgres", "redis"}


def test_the_image_does_not_run_as_root_and_says_whether_it_is_well() -> None:
    assert re.search(r"^USER [1-9]\d*", DOCKERFILE, re.M)
    check = re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.M)
    assert check
    program, flag, code = json.loads(check[1])
    assert (program, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert "/health" in code


def test_the_stack_loads_and_its_settings_are_the_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = COMPOSE["services"]["gateway"]["environment"]
    for name in ("MODEL", "MODEL_URL", "MODEL_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIMITS_URL", variables["LIMITS_URL"])
    file = DEPLOY / "config" / "stack.yaml"
    found = settings(load_stack(file))
    assert found.storage == variables["LIMITS_URL"]
    assert found.limits.concurrent
    assert set(re.findall(r"\$\{(\w+)", file.read_text(encoding="utf-8"))) <= set(variables)


def test_stopping_waits_longer_than_the_gateway_takes_to_drain() -> None:
    drain = settings(load_stack(DEPLOY / "config" / "stack.yaml")).drain_seconds
    assert int(unit()["Service"]["TimeoutStopSec"]) > drain
    assert int(COMPOSE["services"]["gateway"]["stop_grace_period"].rstrip("s")) > drain


def test_only_this_machine_reaches_what_compose_starts() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert not [port for port in ports if not port.startswith("127.0.0.1:")]


def test_every_image_has_a_version_and_every_mounted_file_is_there() -> None:
    services = COMPOSE["services"].values()
    foreign = [service["image"] for service in services if "build" not in service]
    assert not [image for image in foreign if not re.search(r":v?\d", image)]
    mounted = [volume.split(":")[0] for service in services for volume in service.get("volumes", [])]
    assert not [path for path in mounted if path.startswith(".") and not (DEPLOY / path).exists()]
    named = {path for path in mounted if not path.startswith(".")}
    assert named == set(COMPOSE["volumes"])


def test_prometheus_asks_the_gateway_where_it_listens() -> None:
    [job] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    [secret] = COMPOSE["services"]["prometheus"]["secrets"]
    command = COMPOSE["services"]["gateway"]["command"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert job["static_configs"][0]["targets"] == [f"gateway:{command[command.index('--port') + 1]}"]


def test_grafana_finds_the_dashboard_and_its_source() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
    [provider] = yaml.safe_load((folder / "dashboards" / "alignstack.yaml").read_text(encoding="utf-8"))["providers"]
    mounts = COMPOSE["services"]["grafana"]["volumes"]
    assert [mount for mount in mounts if f":{provider['options']['path']}/alignstack.json" in mount]
    used = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel}
    assert used == {source["uid"]}


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def metrics() -> dict[str, set[str]]:
    """The labels of every metric, by the name that queries use."""
    found: dict[str, set[str]] = {}
    for held in vars(Metrics(version="1")).values():
        metric: Any = getattr(getattr(held, "labels", None), "__self__", None)
        if metric is not None:
            ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric._type, [""])
            found |= {metric._name + end: {*metric._labelnames, *(["le"] if end == "_bucket" else [])} for end in ends}
    return found


def test_the_dashboard_names_only_metrics_and_labels_that_there_are() -> None:
    known = metrics()
    for expression in expressions():
        names = re.findall(r"\balignstack_\w+", expression)
        assert names
        assert set(names) <= set(known), expression
        used = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        used |= set(re.findall(r"[{,] *(\w+) *[=!]", expression))
        assert used <= set.union(*(known[name] for name in names)), expression


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        re.sub("_(bucket|sum|count)$", "", name)
        for expression in expressions()
        for name in re.findall(r"\balignstack_\w+", expression)
    }
    assert shown == {re.sub("_(bucket|sum|count)$", "", name) for name in metrics()}


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


if shutil.which("systemd-analyze"):

    def test_systemd_takes_the_unit(tmp_path: Path) -> None:
        text = (DEPLOY / "alignstack.service").read_text(encoding="utf-8")
        program = Path(sys.executable).parent / "alignstack"
        copy = tmp_path / "alignstack.service"
        copy.write_text(text.replace("/opt/alignstack/bin/alignstack", str(program)), encoding="utf-8")
        done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
