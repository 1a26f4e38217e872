"""TRL: `messages`; `prompt` alone; `prompt` and `completion` (and `label`); `prompt`, `chosen` and `rejected`.

Each text may be a string or a list of turns. Pairs without `prompt` share their beginning: whole turns of
conversations, words of strings.
"""

from alignstack.training.formats.example import (
    SIDES,
    Example,
    Kind,
    Raw,
    Turn,
    Wrong,
    conversation,
    known,
    need,
    short,
    text,
    turns,
    user,
)

KEYS = ("messages", "prompt", "completion", "chosen", "rejected", "label")


def matches(row: Raw) -> bool:
    return "messages" in row or "prompt" in row or {"chosen", "rejected"} <= set(row)


def examples(row: Raw, kind: Kind) -> list[Example]:
    if "messages" in row:
        prompt, said = _ended(turns(row["messages"], "messages"), "messages")
        return [Example(prompt=prompt, good=said, **known(row))]
    if "chosen" in row or "rejected" in row:
        return [_pair(row)]
    prompt = _prompt(need(row, "prompt"))
    if "completion" not in row:
        return [Example(prompt=prompt, **known(row))]
    prompt, said = _joined(prompt, row["completion"], "completion")
    learn = _flag(row)
    return [Example(prompt=prompt, good=said if learn else None, bad=None if learn else said, **known(row))]


def _flag(row: Raw) -> bool:
    """A label that says whether the request is harmful is about something else."""
    label = row.get("label", True)
    if label in SIDES:
        return True
    if not isinstance(label, bool):
        raise Wrong(f"'label' must be true (an answer to learn) or false (to avoid), not {short(label)}")
    return label


def _prompt(value: object) -> tuple[Turn, ...]:
    if isinstance(value, str):
        return user(text(value, "prompt"))
    return conversation(turns(value, "prompt"), "prompt", "user")


def _ended(said: list[Turn], where: str) -> tuple[tuple[Turn, ...], str]:
    """(conversation up to the last answer, that answer)."""
    found = conversation(said, where, "assistant")
    return found[:-1], found[-1]["content"]


def _joined(prompt: tuple[Turn, ...], value: object, where: str) -> tuple[tuple[Turn, ...], str]:
    if isinstance(value, str):
        return prompt, text(value, where)
    return _ended([*prompt, *turns(value, where)], where)


def _pair(row: Raw) -> Example:
    chosen, rejected = need(row, "chosen"), need(row, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise Wrong("'chosen' and 'rejected' must both be texts or both be lists of turns")
    if "prompt" in row:
        prompt = _prompt(row["prompt"])
        (before, good), (other, bad) = _joined(prompt, chosen, "chosen"), _joined(prompt, rejected, "rejected")
    elif isinstance(chosen, str):
        (before, good), (other, bad) = _parted(chosen, rejected)
    else:
        (before, good), (other, bad) = (
            _ended(turns(side, where), where) for side, where in ((chosen, "chosen"), (rejected, "rejected"))
        )
    if before != other:
        raise Wrong("'chosen' and 'rejected' differ before their last answer: a pair answers one request")
    if good.strip() == bad.strip():
        raise Wrong("'chosen' and 'rejected' are the same")
    return Example(prompt=before, good=good, bad=bad, **known(row))


def _parted(chosen: str, rejected: str) -> list[tuple[tuple[Turn, ...], str]]:
    """Two texts, cut at the last space that they share from the beginning on."""
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), len(rejected))
    start = chosen[:same].rfind(" ") + 1
    prompt = user(text(chosen[:start].strip(), "the prompt that 'chosen' and 'rejected' begin with"))
    return [(prompt, text(side[start:].strip(), where)) for side, where in ((chosen, "chosen"), (rejected, "rejected"))]
