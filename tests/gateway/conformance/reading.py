"""What a client makes of an answer: its text as layers read it, and how it ended, whatever the API."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Usage = tuple[int, int]

ENDINGS = {
    "end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls", "refusal": "content_filter",
    "max_output_tokens": "length",
}  # fmt: skip
"""In the words of chat completions."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """One answer."""

    text: str = ""
    """Thoughts, texts and refusals, and of tool calls name and arguments on a line of their own."""
    ending: str = ""
    """`stop`, `length`, `tool_calls`, `content_filter`, or `error`."""
    usage: Usage | None = None
    """Input and output tokens, where they were said."""
    error: str = ""
    """Code or type of the error."""


def called(name: str, arguments: Any) -> str:
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, separators=(",", ":"))
    return f"\n{name} {arguments}"


def error(answer: Json) -> Read:
    found = answer["error"]
    return Read(ending="error", error=found.get("code") or found["type"])


def whole(route: str, answer: Json) -> Read:
    """`answer`: the JSON of an answer with status 200."""
    return {"chat": _chat, "responses": _response, "messages": _message}[route](answer)


def streamed(route: str, events: Sequence[Json]) -> Read:
    """`events`: the JSON of each."""
    return {"chat": _chunks, "responses": _response_events, "messages": _message_events}[route](events)


def _chat(answer: Json, index: int = 0) -> Read:
    choice = answer["choices"][index]
    message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return Read(
        text=(message.get("reasoning_content") or "")
        + (message["content"] or "")
        + (message.get("refusal") or "")
        + "".join(called(call["name"], call["arguments"]) for call in calls),
        ending=choice["finish_reason"],
        usage=(answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]),
    )


def choice(answer: Json, index: int) -> Read:
    """One of several answers of chat completions."""
    return _chat(answer, index)


def _chunks(events: Sequence[Json], index: int = 0) -> Read:
    text, ending, usage = "", "", None
    for event in events:
        if event.get("error"):
            return Read(text=text, ending="error", error=error(event).error)
        if event.get("usage"):
            usage = (event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"])
        for found in (choice for choice in event["choices"] if choice["index"] == index):
            text += _chunk(found["delta"])
            ending = found["finish_reason"] or ending
    return Read(text=text, ending=ending, usage=usage)


def chunks(events: Sequence[Json], index: int) -> Read:
    """One of several streamed answers of chat completions."""
    return _chunks(events, index)


def _chunk(delta: Json) -> str:
    text = (delta.get("reasoning_content") or "") + (delta.get("content") or "") + (delta.get("refusal") or "")
    for call in delta.get("tool_calls") or ():
        function = call["function"]
        text += called(function["name"], function["arguments"]) if function.get("name") else function["arguments"]
    return text


def _response(answer: Json) -> Read:
    kinds = {item["type"] for item in answer["output"]}
    details = answer["incomplete_details"]
    ending = details["reason"] if details else "tool_calls" if "function_call" in kinds else "stop"
    usage = answer["usage"]
    return Read(
        text="".join(_item(item) for item in answer["output"]),
        ending=ENDINGS.get(ending, ending),
        usage=(usage["input_tokens"], usage["output_tokens"]),
    )


def _item(item: Json) -> str:
    if item["type"] == "function_call":
        return called(item["name"], item["arguments"])
    return "".join(part.get("text") or part.get("refusal") or "" for part in item["content"])


def _response_events(events: Sequence[Json]) -> Read:
    text = ""
    for event in events:
        if event["type"] == "error":
            return Read(text=text, ending="error", error=event["code"])
        if event["type"] == "response.output_item.added" and event["item"]["type"] == "function_call":
            text += called(event["item"]["name"], "")
        if event["type"].endswith(".delta"):
            text += event["delta"]
    last = _response(events[-1]["response"])
    assert last.text == text, "the last event repeats the answer"
    return last


def _message(answer: Json) -> Read:
    return Read(
        text="".join(_block(block) for block in answer["content"]),
        ending=ENDINGS[answer["stop_reason"]],
        usage=_message_usage(answer["usage"]),
    )


def _message_usage(usage: Json) -> Usage:
    return usage["input_tokens"] + (usage.get("cache_read_input_tokens") or 0), usage["output_tokens"]


def _block(block: Json) -> str:
    if block["type"] == "tool_use":
        return called(block["name"], block["input"])
    return str(block["thinking"] if block["type"] == "thinking" else block["text"])


def _message_events(events: Sequence[Json]) -> Read:
    text, ending, usage = "", "", None
    for event in events:
        match event["type"]:
            case "error":
                return Read(text=text, ending="error", error=error(event).error)
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                text += called(event["content_block"]["name"], "")
            case "content_block_delta":
                delta = event["delta"]
                text += delta.get("text") or delta.get("partial_json") or delta.get("thinking") or ""
            case "message_delta":
                ending, usage = ENDINGS[event["delta"]["stop_reason"]], _message_usage(event["usage"])
    return Read(text=text, ending=ending, usage=usage)


# ---------------------------------------------------------------- raw event streams


def events(route: str, raw: bytes) -> list[Json]:
    """The events of a stream that is well formed: the one thing that ends it comes once, and last."""
    *blocks, rest = raw.split(b"\n\n")
    assert rest == b"", "the last event ends with a blank line"
    found = [_data(block) for block in blocks]
    if route == "chat":
        assert blocks[-1] == b"data: [DONE]" and blocks.count(b"data: [DONE]") == 1
        return [json.loads(data) for data in found[:-1]]
    read = [json.loads(data) for data in found]
    assert [_name(block) for block in blocks] == [event["type"].encode() for event in read]
    ends = ("message_stop", "error", "response.completed", "response.incomplete", "response.failed")
    assert [event["type"] in ends for event in read] == [False] * (len(read) - 1) + [True]
    if route == "responses":
        numbers = [event["sequence_number"] for event in read]
        assert numbers == list(range(len(read))), numbers
    return read


def _data(block: bytes) -> bytes:
    *before, data = block.split(b"\n")
    assert data.startswith(b"data: ") and all(line.startswith(b"event: ") for line in before), block
    return data.removeprefix(b"data: ")


def _name(block: bytes) -> bytes:
    return block.split(b"\n")[0].removeprefix(b"event: ")
