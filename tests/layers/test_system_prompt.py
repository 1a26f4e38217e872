import pytest

from alignstack import policy
from alignstack.core.errors import ConfigError
from alignstack.core.layer import View
from alignstack.core.messages import Conversation, Message, user
from alignstack.layers.system_prompt import SystemPrompt, SystemPromptConfig


def layer(**keys: object) -> SystemPrompt:
    config = SystemPromptConfig.model_validate(keys)
    return SystemPrompt(config, name="system_prompt", phase=None, hazards=None, policy=policy.load())


async def prompted(messages: Conversation, **keys: object) -> Conversation:
    verdict = await layer(**keys).check(View(phase="prompt", messages=messages))
    assert verdict.action == "modify" and verdict.messages is not None
    return verdict.messages


async def test_the_policy_becomes_the_first_message() -> None:
    messages = await prompted(user("hi"))
    assert messages == (Message(role="system", content=policy.render.system_prompt(policy.load())), *user("hi"))


async def test_the_clients_own_system_text_stays_after_the_policy() -> None:
    client = (Message(role="system", content="Talk like a pirate."), *user("hi"))
    messages = await prompted(client, text="Be safe.")
    assert [(m.role, m.content) for m in messages] == [("system", "Be safe.\n\nTalk like a pirate."), ("user", "hi")]


async def test_an_empty_system_message_leaves_no_gap() -> None:
    messages = await prompted((Message(role="system", content=" "), *user("hi")), text="Be safe.")
    assert messages[0].content == "Be safe."


async def test_a_system_message_in_mid_conversation_does_not_keep_the_policy_from_the_front() -> None:
    later = (*user("hi"), Message(role="system", content="x"))
    assert [m.role for m in await prompted(later)] == ["system", "user", "system"]


async def test_the_full_style_holds_the_principles() -> None:
    text = (await prompted(user("hi"), style="full"))[0].content
    assert policy.load().principles[0].text in text


def test_it_is_a_modifier_whose_version_is_its_text() -> None:
    assert layer().info.kind == "modifier" and layer().info.phases == ("prompt",)
    assert layer().info.version == layer(style="brief").info.version != layer(style="full").info.version


def test_other_phases_are_refused() -> None:
    with pytest.raises(ConfigError, match="works in prompt, not 'output'"):
        SystemPrompt(SystemPromptConfig(), name="s", phase="output", hazards=None, policy=policy.load())
