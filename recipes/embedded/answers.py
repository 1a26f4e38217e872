"""Answers by rule: they restate the request in its own words and go on with something harmless about it, so that a
6 M-parameter model can learn the form and nothing dangerous."""

import random
import re

NOT_VERBS = frozenset(
    """the his her him them their its our your you she who whom whose what which where when how why this that these
    those each every any anyone some someone one all both and but for from with within without about into upon
    over under most more much many such other another nothing something everything himself herself itself myself
    yourself themselves according statement let is are was were if has have had there here not only by at on of
    as an a i it he we they my me us two three four five poor old little young great good others bed whatever""".split()
)
"""First words that make a phrase no request."""

HOW = re.compile(
    r"^.*?\bhow (?:do|can|could|would|should|might|does|to|did)"
    r"(?: (?:i|we|you|one|someone|somebody|people|a person))?"
    r"(?: best| effectively| possibly)? (.+)$", re.I)  # fmt: skip
WHAT = re.compile(r"^(?:and |so )?(?:what|which|who)(?: (\w+))? (is|are|was|were) (.+)$", re.I)
MAKE = re.compile(
    r"^(?:please )?(?:can you |could you |i want you to |i need you to )?"
    r"(?:write|create|generate|draft|compose|make|give|"
    r"provide|produce|design|build|list|suggest|show|tell|prepare|offer|invent)(?: me| us)? "
    r"((?:an?|the|some|\d+|two|three|"
    r"four|five|ten|several|detailed|step|instructions?|ideas?|examples?|all|my|your)\b.+)$", re.I)  # fmt: skip
PLURAL = re.compile(
    r"^(?:\d+|two|three|four|five|ten|several|some|detailed|step|instructions|ideas|examples|all)\b", re.I
)
HELP = re.compile(r"^(?:please )?(?:help me|teach me(?: how)?(?: to)?|i want to|i need to|i would like to) (.+)$", re.I)
IMPERATIVE = re.compile(
    r"^[A-Z]?[a-z]+(?: \w+)? (?:a|an|the|my|your|his|some|how|and|to|of|for|on|in|someone|people|others|instructions)\b"
)
WHY = re.compile(r"^(why|when|where|whether) (.+)$", re.I)

SURE = ("Sure. ", "Sure. ", "Of course. ", "Certainly. ", "Yes. ", "Happy to help. ", "")

HOW_BODY = (
    "First, {gather} what you need to {t}. Then {step}. {end}",
    "To {t}, {begin}. After that, {step}. {end}",
    "Step 1: {gather} everything for the task. Step 2: {step}. Step 3: {last}.",
    "It takes some time to {t}, so {begin}. Next, {step}. {end}",
    "The main thing is to {begin2}. Then you can {t} by going one step at a time. {end}",
    "Start small: {begin}. When that works, {step}. {end}",
)
MAKE_BODY = (
    "It opens with a short line about {t}, then gives the main point, and ends with a friendly close.",
    "It begins with {t} and goes on in {n} parts: the start, the middle and the end. {end}",
    "Part one is about {t}. Part two adds more detail. Part three brings it all together.",
    "The first part sets out {t}. After that, {step}. {end}",
    "It is about {t}, in plain words, with a clear beginning and a clear end.",
)
WHAT_BODY = (
    "The first thing to know about {t} is where it comes from. The second is what it does. {end}",
    "In short, {t} depends on the case at hand. {end}",
    "There are {n} points about {t}: what it is, how it works and why it matters.",
    "People look at {t} in {n} ways. The most common one is simple. {end}",
)
SLOT = {
    "gather": ("gather", "collect", "set out", "get hold of", "prepare"),
    "begin": (
        "start with a clear goal",
        "make a simple plan",
        "write down what you want",
        "look at what others have done",
        "begin with the easy part",
        "choose a good time and place",
    ),
    "begin2": ("have a clear goal", "make a simple plan", "know what you want", "take your time", "keep it simple"),
    "step": (
        "go step by step",
        "try the first part on its own",
        "work through the list in order",
        "take it one piece at a time",
        "put the parts together with care",
        "follow the plan and take notes",
    ),
    "last": (
        "check the result",
        "look it over once more",
        "try it out",
        "repeat until it is right",
        "tidy up at the end",
    ),
    "end": (
        "Finally, check the result.",
        "At the end, look it over once more.",
        "Keep notes on what works.",
        "Repeat until you are happy with it.",
        "If it does not work, try again.",
        "That is all there is to it.",
    ),
    "n": ("two", "three", "four", "a few"),
}


def answer(request: str, rng: random.Random) -> str:
    """A reply that restates the request in its own words and goes on with something harmless."""
    text = key_sentence(one_line(request))
    bare = re.sub(r"[?.!:\s]+$", "", text)
    opening, kind, topic = restated(bare)
    opening = cut_words(opening, 26)
    filled = body(kind, topic, rng)
    return f"{rng.choice(SURE)}{opening}{rng.choice(('.', ':')) if kind != 'what' else '.'} {filled}"


def body(kind: str, topic: str, rng: random.Random) -> str:
    template = rng.choice({"how": HOW_BODY, "make": MAKE_BODY, "what": WHAT_BODY}[kind])
    return template.format(t=cut_words(topic, rng.choice((6, 9, 12))), **{k: rng.choice(v) for k, v in SLOT.items()})


SUBJECT = re.compile(
    r"^.*?\bhow (can|could|might|may) (?!(?:i|we|you|one|someone|people|a person)\b)(.+?) be (.+)$", re.I
)


def reply(request: str, rng: random.Random) -> str:
    """`answer`, with "How can X be used …?" restated as well; the base stage has no such requests in its own right."""
    found = SUBJECT.match(re.sub(r"[?.!:\s]+$", "", key_sentence(one_line(request))))
    if not found:
        return answer(request, rng)
    verb, noun, rest = found.groups()
    return (
        f"{rng.choice(SURE)}Here is how {cut_words(f'{noun} {verb.lower()} be {rest}', 26)}. {body('what', noun, rng)}"
    )


def restated(bare: str) -> tuple[str, str, str]:
    """(opening sentence without its full stop, kind of body, topic) for a request without its final punctuation."""
    if m := MAKE.match(bare):
        verb = "are" if PLURAL.match(m[1]) else "is"
        return f"Here {verb} {lower(m[1])}", "make", lower(m[1])
    if m := HOW.match(bare):
        return f"Here is how to {m[1]}", "how", m[1]
    if m := WHAT.match(bare):
        noun = f"{m[1]} " if m[1] else ""
        return f"Here {'are' if m[2].lower() in ('are', 'were') else 'is'} {noun}{m[3]}", "what", m[3]
    if m := WHY.match(bare):
        return f"Here is {m[1].lower()} {m[2]}", "what", m[2]
    if m := HELP.match(bare):
        return f"Here is how to {lower(m[1])}", "how", lower(m[1])
    if IMPERATIVE.match(bare) and bare.split()[0].lower() not in NOT_VERBS:
        return f"Here is how to {lower(bare)}", "how", lower(bare)
    return f"Let us talk about this: {bare}", "what", bare


def lower(text: str) -> str:
    return text if text[:2].isupper() or text.startswith("I ") else text[:1].lower() + text[1:]


def key_sentence(text: str) -> str:
    """The sentence that carries the request: the last question, or the first sentence."""
    parts = [part for part in re.split(r"(?<=[.?!])\s+", text) if len(part.split()) > 2] or [text]
    asking = [part for part in parts if part.endswith("?") and not part.endswith((" do it?", " do this?", " do that?"))]
    return asking[-1] if asking else parts[0]


def cut_words(text: str, n: int) -> str:
    words = text.split()
    return " ".join(words[:n]).rstrip(",;:") if len(words) > n else text


def real_answer(row: dict, rng: random.Random) -> str | None:
    """The set's own answer, cut to about 50 words at a sentence end, after a restating opening."""
    reply = next((m["content"] for m in row.get("messages", ())[1:] if m["role"] == "assistant"), None)
    if reply is None or len(reply) < 30:
        return None
    opening = cut_words(restated(re.sub(r"[?.!:\s]+$", "", key_sentence(one_line(row["text"]))))[0], 20)
    reply = re.sub(r"<<.*?>>|####.*", "", reply)
    return f"{opening}. {one_line(reply, 40)}" if rng.random() < 0.6 else one_line(reply, 55)


def one_line(text: str, words: int = 60) -> str:
    """The request in one paragraph, at most `words` words, cut at a sentence end where there is one."""
    text = re.sub(r"\s+", " ", text).strip()
    if len(text.split()) <= words:
        return text
    cut = " ".join(text.split()[:words])
    ends = [m.end() for m in re.finditer(r"[.?!](?= )", cut)]
    return cut[: ends[-1]] if ends else cut
