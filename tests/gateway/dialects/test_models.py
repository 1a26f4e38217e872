"""Both official SDKs read the answers."""

import anthropic
import openai
from aiohttp import web
from anthropic.types import ModelInfo
from openai.types import Model

from alignstack.gateway.dialects import models


def test_both_sdks_have_types_for_the_model() -> None:
    body = models.one("org/tiny", 1_700_000_000.5)
    theirs = Model.model_validate_json(body, strict=True)
    assert (theirs.id, theirs.created, theirs.object) == ("org/tiny", 1_700_000_000, "model")
    other = ModelInfo.model_validate_json(body)
    assert (other.id, other.created_at.timestamp()) == ("org/tiny", 1_700_000_000)


async def test_both_sdks_read_the_list() -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=models.listed("tiny"), content_type="application/json")

    app = web.Application()
    app.router.add_get("/v1/models", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as first,
            anthropic.AsyncAnthropic(base_url=url, api_key="none") as second,
        ):
            assert [model.id async for model in first.models.list()] == ["tiny"]
            assert [model.id async for model in second.models.list()] == ["tiny"]
    finally:
        await runner.cleanup()
