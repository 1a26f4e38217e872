"""Plugins: built-in or not, they take the same road; a broken one is named."""

import sys
from pathlib import Path

import pytest

from alignstack.core.errors import ConfigError, NotFound
from alignstack.engine import registry
from alignstack.engine.config import load_stack


@pytest.fixture
def outsider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with one good layer, one that does not import, and one that poses as a built-in."""
    info = tmp_path / "outsider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[alignstack.layers]\nlate = outsider_layer:Late\nbroken = outsider_layer:Gone\nbare = outsider_layer:Bare\n"
        "keyword = outsider_layer:Late\n"
    )
    (tmp_path / "outsider_layer.py").write_text(
        "from pydantic import BaseModel\n"
        "from alignstack.core.layer import LayerInfo\n"
        "from alignstack.core.verdict import ALLOW\n"
        "class Bare: pass\n"
        "class Late:\n"
        "    class Config(BaseModel, extra='forbid', frozen=True):\n"
        "        depth: int = 1\n"
        "    def __init__(self, config, *, name, phase, hazards, policy, base):\n"
        "        self.config = config\n"
        "        if config.depth > 9: raise RuntimeError('too deep')\n"
        "        self.info = LayerInfo(name=name, use='late', phases=(phase or 'output',), kind='veto', version='1')\n"
        "    async def check(self, view): return ALLOW\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outsider_layer", raising=False)
    return tmp_path


def stack_of(folder: Path, layer: str) -> Path:
    path = folder / "stack.yaml"
    path.write_text(f"model: {{use: scripted}}\nlayers: [{layer}]\n")
    return path


def test_a_plugin_works_like_a_built_in(outsider: Path) -> None:
    stack = load_stack(stack_of(outsider, "{use: late, depth: 3}"))
    assert [placed.name for placed in stack.layers] == ["model", "late"]
    assert registry.find("layers", "late").distribution == "outsider"


def test_a_broken_plugin_is_listed_and_stops_only_who_asks_for_it(outsider: Path) -> None:
    assert "Gone" in registry.available("layers")["broken"].error
    load_stack(stack_of(outsider, "{use: late}"))
    with pytest.raises(ConfigError, match="'broken' from 'outsider' does not load"):
        load_stack(stack_of(outsider, "{use: broken}"))


def test_a_plugin_without_config_is_broken(outsider: Path) -> None:
    assert registry.find("layers", "bare").error == "has no nested Config class"


def test_a_plugin_cannot_take_the_name_of_a_built_in(outsider: Path) -> None:
    assert registry.find("layers", "keyword").distribution == "alignstack"


def test_a_plugin_that_does_not_start_gives_a_config_error(outsider: Path) -> None:
    with pytest.raises(ConfigError, match=r"layers\[0\]: Late does not start: RuntimeError: too deep"):
        load_stack(stack_of(outsider, "{use: late, depth: 10}"))


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(NotFound, match="no layer 'keywrd'; did you mean 'keyword'"):
        registry.find("layers", "keywrd")
