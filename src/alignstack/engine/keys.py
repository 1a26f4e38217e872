"""The keys of stack.yaml that are the engine's; a layer, model or judge has its own in its `Config`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from alignstack.core.events import Mode, OnError


class SamplingKeys(BaseModel):
    """How the model draws tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False, description="0 is greedy")
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1)


class LayerKeys(BaseModel):
    """Keys that every layer has."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    use: str = Field(description="the kind of layer: an entry point of `alignstack.layers`")
    name: str | None = Field(
        default=None, min_length=1, max_length=64, description="unique in the stack; `use` unless given"
    )
    phase: Literal["request", "prompt", "output"] | None = Field(
        default=None, description="where it acts; its own default"
    )
    mode: Mode = Field(default="enforce", description="`shadow` decides and is recorded, and changes nothing")
    on_error: OnError = Field(default="block", description="what follows when it crashes or runs out of time")
    timeout_ms: float = Field(default=30_000, gt=0, allow_inf_nan=False, description="milliseconds for one verdict")
    hazards: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="what it claims to cover; everything"
    )
    max_chars: int | None = Field(default=None, ge=1, description="it judges only the first so many characters")


class ModelKeys(BaseModel):
    """Keys that every model has."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    use: str = Field(description="an entry point of `alignstack.models`")
    reference: dict[str, Any] | None = Field(
        default=None, description="the checkpoint that stands for the weights switched off"
    )


class ReferenceKeys(BaseModel):
    """Keys that every reference has."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    use: str = Field(description="an entry point of `alignstack.models`")


class JudgeKeys(BaseModel):
    """Keys that every judge has."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    use: str = Field(description="an entry point of `alignstack.judges`")
    name: str | None = Field(default=None, min_length=1, max_length=64, description="unique; `use` unless given")


Keys = dict[str, Any]


class StackKeys(BaseModel):
    """The top level of stack.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str | None = Field(default=None, description="policy file, relative to this one; the built-in policy")
    model: Keys = Field(description="who answers")
    judge: Keys | Annotated[tuple[Keys, ...], Field(min_length=1)] | None = Field(
        default=None, description="who decides what counts as harm in an audit; of several the first decides"
    )
    layers: tuple[Keys, ...] = Field(default=(), description="in order")
    sampling: SamplingKeys = SamplingKeys()
    race: bool = Field(default=False, description="the model starts while request layers decide")
    streaming: bool = Field(default=False, description="tokens may leave before the answer is complete")
    window: int = Field(default=16, ge=1, description="tokens between two checks of the output layers on a stream")
    refusal: str | None = Field(default=None, min_length=1, description="what a blocked client receives; the policy's")
    on_block: Literal["refusal", "error"] = Field(default="refusal", description="`error`: HTTP 400 `content_filter`")
    serve: dict[str, Any] = Field(default_factory=dict, description="the gateway's settings; see limits.md")
