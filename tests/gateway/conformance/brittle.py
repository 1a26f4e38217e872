"""A layer that crashes on demand, installed as a plugin."""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from alignstack.core.layer import LayerInfo, Phase, View
from alignstack.core.verdict import ALLOW, Verdict


class BrittleConfig(BaseModel):
    """Keys in the stack file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    word: str
    """Crashes where it occurs."""
    seconds: float = 0.0
    """That a look takes; 0: the engine may ask it in its own task."""


class Brittle:
    """Allows everything else."""

    Config = BrittleConfig

    def __init__(self, config: BrittleConfig, *, name: str, phase: Phase | None, **others: Any) -> None:
        self._word, self._seconds = config.word, config.seconds
        quick = not config.seconds
        self.info = LayerInfo(
            name=name, use="brittle", phases=(phase or "request",), kind="veto", version=config.word, quick=quick
        )

    async def check(self, view: View) -> Verdict:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        if self._word in view.text:
            raise RuntimeError("broken")
        return ALLOW


def install(folder: Path) -> Path:
    """Makes `folder` one that, on `sys.path`, offers the plugin."""
    info = folder / "brittle-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brittle\nVersion: 1.0\n", encoding="utf-8")
    target = f"{__name__}:Brittle"
    (info / "entry_points.txt").write_text(f"[alignstack.layers]\nbrittle = {target}\n", encoding="utf-8")
    return folder
