"""Both official SDKs' types read the answers."""

import pytest
from anthropic.types import ModelInfo
from openai.types import Model

from alignstack.gateway.call import Refused
from alignstack.gateway.dialects import models


def test_both_sdks_read_the_model() -> None:
    body = models.one("org/tiny", "org/tiny", 1_700_000_000.5)
    theirs = Model.model_validate_json(body, strict=True)
    assert (theirs.id, theirs.created, theirs.object) == ("org/tiny", 1_700_000_000, "model")
    other = ModelInfo.model_validate_json(body)
    assert (other.id, other.created_at.timestamp()) == ("org/tiny", 1_700_000_000)


def test_the_list_holds_the_one_model() -> None:
    body = models.listing("tiny", 0.0)
    assert body.startswith(b'{"object":"list","data":[{"id":"tiny","object":"model"')
    assert b'"has_more":false' in body


def test_another_model_is_not_found() -> None:
    with pytest.raises(Refused, match="does not exist") as caught:
        models.one("x" * 10_000, "tiny", 0.0)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert len(caught.value.message) < 300
