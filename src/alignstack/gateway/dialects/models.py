"""`/v1/models`: the one model of the stack, in the words of OpenAI and of Anthropic at once."""

from datetime import UTC, datetime
from typing import Any

from alignstack.gateway.call import Refused
from alignstack.gateway.dialects.body import encode


def listing(name: str, created: float) -> bytes:
    """`created`: seconds since 1970."""
    page = {"object": "list", "data": [_model(name, created)]}
    return encode({**page, "first_id": name, "last_id": name, "has_more": False})


def one(asked: str, name: str, created: float) -> bytes:
    """Raises Refused (404) when another model is asked for."""
    if asked != name:
        message = f"The model {asked[:100]!r} does not exist; this gateway serves {name!r}."
        raise Refused(404, message, kind="not_found_error", code="model_not_found", param="model")
    return encode(_model(name, created))


def _model(name: str, created: float) -> dict[str, Any]:
    since = datetime.fromtimestamp(int(created), UTC).isoformat().replace("+00:00", "Z")
    openai = {"id": name, "object": "model", "created": int(created), "owned_by": "alignstack"}
    return {**openai, "type": "model", "display_name": name, "created_at": since, "lifecycle": "active"}
