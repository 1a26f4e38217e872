"""`alignstack schema` and `alignstack layers ls`."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.mark.parametrize(("what", "key"), [("stack", "layers"), ("policy", "hazards")])
def test_schema_is_one_document_that_knows_the_top_level(cli: Cli, what: str, key: str) -> None:
    schema = cli("schema", what).document
    assert schema["$schema"].startswith("https://json-schema.org/") and key in schema["properties"]


def test_unknown_schema_names_the_valid_ones(cli: Cli) -> None:
    ended = cli("schema", "stak")
    assert ended.code == 2 and "'stack', 'policy'" in ended.err


def test_built_ins_are_listed_and_ready(cli: Cli) -> None:
    plugins = cli("layers", "ls", "--json").document
    assert {"keyword", "classifier", "system_prompt", "rate_limit"} <= {
        plugin["name"] for plugin in plugins if plugin["group"] == "layers"
    }
    assert [plugin["error"] for plugin in plugins if plugin["distribution"] == "alignstack"] == [None] * len(plugins)


def test_plugins_that_do_not_load_are_named_with_the_reason(cli: Cli, tmp_path: Path) -> None:
    metadata = tmp_path / "site" / "broken-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[alignstack.layers]\nshout = nowhere:Shout\n", encoding="utf-8")
    ended = cli("layers", "ls", PYTHONPATH=str(metadata.parent))
    assert ended.code == 0
    assert "'shout'" in ended.err and "No module named 'nowhere'" in ended.err
