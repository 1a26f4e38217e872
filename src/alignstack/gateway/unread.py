"""Keys of a request that would put text before the model past every layer.

Stops: the keys by which model servers take a prompt, a template or documents beside the messages.
Does not stop: text in descriptions of tools and in response formats, which clients need and no layer reads; output
layers see what the model makes of it.
"""

import msgspec

from alignstack.gateway.call import bad_request

PROMPTS = frozenset(
    "add_special_tokens chat_template chat_template_kwargs context continue_final_message documents echo input "
    "input_ids multi_modal_data prompt prompt_embeds prompt_token_ids raw "
    "suffix system template".split()
)
"""Of vLLM, SGLang, llama.cpp, Ollama and the completions API; chosen by reading their documentation."""


def unread(more: str) -> None:
    """`more`: the keys that go to the model server as they came (JSON object, perhaps empty). Raises Refused (400)."""
    if not more:
        return
    for key in msgspec.json.decode(more):
        if key in PROMPTS:
            raise bad_request(f"{key!r} is not available: no safeguard reads it; use messages", param=key)
