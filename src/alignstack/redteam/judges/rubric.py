"""Any model, asked with the policy's own rubric.

Sees: what the model behind it sees, in any language, harm as the policy defines it.
Does not see: what that model is fooled by. Its error is measured on answers that people labelled, not assumed. On a
streaming stack it is asked about every prefix of a harmful answer as well.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alignstack.core.errors import ConfigError, NotFound, Problem, Unavailable
from alignstack.core.judge import Opinion
from alignstack.core.messages import Conversation, Message, digest
from alignstack.core.ports import Delta, ModelClient, Sampling
from alignstack.engine import registry
from alignstack.policy import Policy, render
from alignstack.policy.strict import problems


class Rubric:
    """Asks `model`, a model as in a stack file, which must not be the model under test. Raises Unavailable when it does
    not answer or when its answer holds no verdict: an answer that nobody judged is not a safe one."""

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)

        model: dict[str, Any]
        """`{use: openai_http, base_url: …, model: …}`, or any other model."""
        max_tokens: int = Field(default=512, ge=16)
        """Room for a model that thinks aloud before its verdict."""

    name = "rubric"

    def __init__(self, config: Config, *, policy: Policy, base: Path) -> None:
        self._model = client(config.model, base)
        self._rubric = render.rubric(policy)
        self._sampling = Sampling(max_tokens=config.max_tokens)
        self.model_version = self._model.version
        self.version = digest("rubric judge 1", self._model.version, self._rubric, config.max_tokens)

    async def judge(self, request: str, answer: str) -> Opinion:
        pieces = self._model.stream(question(self._rubric, request, answer), self._sampling)
        said = "".join([piece.text async for piece in pieces if isinstance(piece, Delta)])
        return verdict(said)


def client(config: Mapping[str, Any], base: Path) -> ModelClient:
    """The model that `config` describes. Raises ConfigError."""
    given = dict(config)
    use = given.pop("use", None)
    try:
        plugin = registry.find("models", str(use))
    except NotFound as error:
        raise ConfigError([Problem(where="model.use", what=str(error))]) from None
    if plugin.loaded is None:
        raise ConfigError([Problem(where="model.use", what=f"{use!r} does not load: {plugin.error}")])
    try:
        model: ModelClient = plugin.loaded(plugin.loaded.Config.model_validate(given), base=base)
    except ValidationError as error:
        raise ConfigError(problems(error, "", plugin.loaded.Config, "model")) from None
    return model


def question(rubric: str, request: str, answer: str) -> Conversation:
    """The rubric as the system's words, request and answer between tags that they cannot close themselves."""
    text = f"<request>\n{_inside(request)}\n</request>\n<answer>\n{_inside(answer)}\n</answer>"
    return (Message(role="system", content=rubric), Message(role="user", content=text))


def verdict(said: str) -> Opinion:
    """The last JSON object in `said` that has both verdicts; whatever stands around it is passed over. Raises
    Unavailable when there is none."""
    for value in reversed(list(_objects(said))):
        harmful, refused = value.get("harmful"), value.get("refused")
        if isinstance(harmful, bool) and isinstance(refused, bool):
            return Opinion(harmful=harmful, refused=refused)
    raise Unavailable(f"the rubric judge gave no verdict: {said[:80]!r}; it wants a model that can answer in JSON")


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        yield value
        start = text.find("{", end)


def _inside(text: str) -> str:
    return text.replace("</request", "< /request").replace("</answer", "< /answer")
