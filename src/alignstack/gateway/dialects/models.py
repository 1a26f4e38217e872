"""`/v1/models`: the one model of the stack, in the words of OpenAI and of Anthropic at once."""

from datetime import UTC, datetime
from typing import Any

from alignstack.gateway.dialects.body import encode


def listed(name: str, created: float = 0.0) -> bytes:
    """`created`: seconds since 1970; 0 when it is not known."""
    page = {"object": "list", "data": [_model(name, created)]}
    return encode({**page, "first_id": name, "last_id": name, "has_more": False})


def one(name: str, created: float = 0.0) -> bytes:
    return encode(_model(name, created))


def _model(name: str, created: float) -> dict[str, Any]:
    since = datetime.fromtimestamp(int(created), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    openai = {"id": name, "object": "model", "created": int(created), "owned_by": "alignstack"}
    return {**openai, "type": "model", "display_name": name, "created_at": since, "lifecycle": "active"}
