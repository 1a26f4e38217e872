"""`/v1/moderations`: what the request layers of the stack say of texts. No model is asked, nothing is blocked."""

from dataclasses import replace

from alignstack.core.events import Event
from alignstack.core.layer import View
from alignstack.core.messages import Conversation
from alignstack.core.usage import Key
from alignstack.engine.check import check
from alignstack.gateway.account import BYTES_PER_TOKEN
from alignstack.gateway.call import Refused
from alignstack.gateway.dialects.moderations import decode, scored, whole
from alignstack.gateway.services import Services


async def moderate(services: Services, key: Key, body: bytes, id: str) -> bytes:
    """The answer's body. Raises Refused."""
    question, deployment = decode(body), services.deployment
    chars = sum(len(message.content) for messages in question.inputs for message in messages)
    if chars > deployment.settings.max_text_chars:
        what = f"{chars} characters of text are more than the {deployment.settings.max_text_chars} allowed"
        raise Refused(413, what, kind="invalid_request_error", param="input")
    await services.limits.admit(key, "", chars // BYTES_PER_TOKEN + len(question.inputs))
    async with services.caps.hold(key):
        results = [scored(await _events(services, key, messages)) for messages in question.inputs]
    stack = deployment.stack
    return whole(results, id=id, model=f"alignstack-{stack.fingerprint[:12]}", policy=stack.policy)


async def _events(services: Services, key: Key, messages: Conversation) -> list[Event]:
    """Of every veto that judges what is asked. Those that count callers do not count this: no model is asked."""
    view = View(phase="request", messages=messages, caller=key.id)
    audited = replace(view, audit=True)
    vetoes = [placed for placed in services.deployment.stack.acting("request") if placed.info.kind == "veto"]
    return [await check(placed, audited if placed.info.stateful else view, clock=services.clock) for placed in vetoes]
