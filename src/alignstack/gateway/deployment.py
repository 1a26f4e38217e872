"""What one version of the stack file makes of the gateway. A reload puts a new one in the place of the old; requests
under way keep theirs to the end."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from alignstack.core.ports import Sampling
from alignstack.engine.config import load_stack
from alignstack.engine.stack import Stack
from alignstack.gateway.call import Call
from alignstack.gateway.settings import Settings, settings


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A stack, the settings beside it, and the forms in which it is asked."""

    stack: Stack
    settings: Settings

    @cached_property
    def whole(self) -> Stack:
        """For clients that do not stream."""
        return replace(self.stack, streaming=False)

    @cached_property
    def shadow(self) -> Stack:
        """Every veto decides and changes nothing: all of them are asked, and the model too."""
        layers = tuple(
            replace(placed, mode="shadow") if placed.info.kind == "veto" else placed for placed in self.stack.layers
        )
        return replace(self.stack, layers=layers, streaming=False)

    @cached_property
    def strict(self) -> Stack:
        """Every veto enforces, those too that are shadows in the stack file."""
        layers = tuple(replace(placed, mode="enforce") if placed.layer else placed for placed in self.stack.layers)
        return replace(self.stack, layers=layers)

    @cached_property
    def said(self) -> frozenset[str]:
        """The sampling keys that the stack file gives: they stand in for what a client leaves out."""
        written: Any = self.stack.config.get("sampling")
        return frozenset(written) if isinstance(written, dict) else frozenset()

    def asked(self, call: Call) -> Stack:
        """The form of the stack for one call. A client may ask for more than the stack file enforces; for less only
        where the operator lets clients choose."""
        if call.moderation == "score" and self.settings.moderation == "client":
            return self.shadow
        if call.moderation == "block":
            return self.strict if call.stream else replace(self.strict, streaming=False)
        return self.stack if call.stream else self.whole

    def sampling(self, call: Call) -> Sampling:
        """The client's choice, else the stack file's, else the model server's own."""
        asked, default = call.sampling, self.stack.sampling
        missing = {
            name: getattr(default, name)
            for name in ("seed", "temperature", "top_p", "max_tokens")
            if getattr(asked, name) is None and name in self.said
        }
        return replace(asked, **missing) if missing else asked


def load(stack_file: Path | None) -> Deployment:
    """Raises ConfigError with every problem in the stack file."""
    stack = load_stack(stack_file)
    return Deployment(stack=stack, settings=settings(stack))


def changed(before: Settings, after: Settings) -> frozenset[str]:
    """Names of the settings that differ."""
    return frozenset(name for name in Settings.model_fields if getattr(before, name) != getattr(after, name))
