"""The policy as the model's first instruction.

Stops: what the model declines once it is told to. How much that is depends on the model alone; attribution measures it.
Does not stop: models that do not follow their system prompt, users who talk the model out of it, and requests whose
harm the model does not see.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from alignstack.core.errors import ConfigError, Problem
from alignstack.core.layer import LayerInfo, Phase, Scope, View
from alignstack.core.messages import Conversation, Message, digest
from alignstack.core.verdict import Verdict
from alignstack.policy import Policy, render


class SystemPromptConfig(BaseModel):
    """Keys in the stack file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = None
    """The prompt itself; the policy is rendered when there is none."""
    style: Literal["brief", "full"] = "brief"
    """How the policy is rendered: two sentences, or with all principles and hazards."""


class SystemPrompt:
    """Off means no system message of ours: the client's own, if any, stays as it is."""

    Config = SystemPromptConfig

    def __init__(
        self,
        config: SystemPromptConfig,
        *,
        name: str,
        phase: Phase | None,
        hazards: frozenset[str] | None,
        policy: Policy,
        base: Path = Path(),
    ) -> None:
        if phase not in (None, "prompt"):
            where, what = f"layer {name!r}: phase", f"system_prompt works in prompt, not {phase!r}"
            raise ConfigError([Problem(where=where, what=what)])
        self._text = config.text or render.system_prompt(policy, config.style)
        self.info = LayerInfo(
            name=name,
            use="system_prompt",
            phases=("prompt",),
            kind="modifier",
            version=digest("system_prompt", self._text),
            scope=Scope(hazards=hazards),
            quick=True,
        )

    async def check(self, view: View) -> Verdict:
        return Verdict(action="modify", messages=_prepend(self._text, view.messages), reason="policy put first")


def _prepend(text: str, messages: Conversation) -> Conversation:
    """The policy goes before the client's own system text: chat templates take one system message, the first."""
    if messages and messages[0].role == "system":
        client = messages[0].content
        return (Message(role="system", content=f"{text}\n\n{client}" if client.strip() else text), *messages[1:])
    return (Message(role="system", content=text), *messages)
