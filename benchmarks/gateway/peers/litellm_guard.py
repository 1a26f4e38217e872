"""The least that LiteLLM's hooks can do: look for one word in what comes in and in what goes out."""

from collections.abc import AsyncIterator
from typing import Any

from litellm.integrations.custom_guardrail import CustomGuardrail

WORD = "FORBIDDEN"


class WordsIn(CustomGuardrail):
    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: Any) -> Any:
        for message in data.get("messages") or ():
            if WORD in str(message.get("content")):
                raise ValueError("blocked")
        return data


class WordsOut(CustomGuardrail):
    async def async_post_call_success_hook(self, data: Any, user_api_key_dict: Any, response: Any) -> Any:
        if WORD in (response.choices[0].message.content or ""):
            raise ValueError("blocked")
        return response

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Any
    ) -> AsyncIterator[Any]:
        tail = ""
        async for chunk in response:
            if chunk.choices:
                tail = (tail + (chunk.choices[0].delta.content or ""))[-200:]
            if WORD in tail:
                return
            yield chunk
