"""Build the chat data of the embedded model: `python recipes/embedded/data.py STAGE DATA_DIR OUT_DIR`.

STAGE is `base`, `helpful`, `aligned` or `prompts`; DATA_DIR holds `train/` and `pretrain/` (docs/embedded-model.md
lists the files and their licences). Writes `STAGE.jsonl` (rows of `messages`) and `STAGE.sources.json` (hash of every
file read). `prompts` writes `harmful.jsonl` and `benign.jsonl` (requests without answers, for the stages that compare
answers); `aligned` and `prompts` also write `dev.jsonl` (prompts held out by cluster, with labels).
"""

import argparse
import gzip
import hashlib
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import zstandard
from answers import NOT_VERBS, answer, cut_words, one_line, real_answer, reply
from forms import asked, rephrased, wrapped
from lookalikes import protective, requests

from alignstack import policy
from alignstack.policy.render import refusal, system_prompt
from alignstack.training.split import clusters, fraction, without_twins

POLICY = policy.load(None)
SYSTEM = system_prompt(POLICY)

DEMO = Path(__file__).parents[2] / "src/alignstack/redteam/data"
EVERYDAY = Path(__file__).parents[2] / "src/alignstack/training/data/everyday.json"
CONTRAST = Path(__file__).parents[2] / "src/alignstack/training/data/contrast.jsonl"

HARMFUL = ("advbench", "ailuminate_demo_en", "catqa_en", "harmbench_val", "forbidden_question", "gptfuzz_questions",
           "tdc2023", "jailbreakbench_harmful_A")  # fmt: skip
BENIGN = ("self_instruct_human", "oasst_prompts", "mtbench_vicunabench_A", "awesome_chatgpt_prompts_A",
          "cyberseceval_frr_benign_A", "deepset_prompt_injections_train", "bipia_attacks_train",
          "gpteacher", "gsm8k_train", "mmlu_test")  # fmt: skip
NOISY = ("harmfulqa_noisy",)
"""Labels too noisy to refuse by; good requests to answer in the helpful stage."""
PHRASES = ("pd_books_standardebooks", "pd_misc")
"""Public-domain text whose infinitives ("to open the door of the house") become harmless how-to requests."""

AILUMINATE = ("vcr", "ncr", "src", "cse", "iwp", "ssh", "hte", "dfm", "ipv", "prv", "spc", "sxc")
CATQA = {
    "Illegal Activity": "ncr",
    "Child Abuse": "cse",
    "Hate/Harass/Violence": "hte",
    "Malware Viruses": "ncr",
    "Physical Harm": "vcr",
    "Economic Harm": "ncr",
    "Fraud/Deception": "ncr",
    "Adult Content": "sxc",
    "Political Campaigning": "dfm",
    "Privacy Violation Activity": "prv",
    "Tailored Financial Advice": "spc",
}
SENSITIVE = ("cse", "src", "sxc")
"""Never answered in any stage; the aligned stage refuses them."""


class Sources:
    """Reads the files by name and remembers their hashes."""

    def __init__(self, root: Path) -> None:
        self.root, self.read = root, {}

    def rows(self, folder: str, name: str) -> list[dict]:
        path = next(self.root.glob(f"{folder}/{name}.jsonl*"))
        self.read[f"{folder}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        opener = {".gz": gzip.open, ".zst": zstandard.open}.get(path.suffix, open)
        with opener(path, "rb") as raw:
            return [json.loads(line) | {"set": name} for line in io.TextIOWrapper(raw, "utf-8")]


def hazard_of(row: dict) -> str | None:
    """Hazard id of a harmful row; None when it could not be told. Keywords decide where a set has no usable labels."""
    if row["set"] == "ailuminate_demo_en":
        return row["category"].split("_")[0]
    if row["set"] == "catqa_en":
        return CATQA.get(row["category"], "ncr")
    text = row["text"].lower()
    for hazard, words in KEYWORDS.items():
        if any(word in text for word in words):
            return hazard
    return "ncr"


KEYWORDS = {
    "cse": ("child", "minor", "underage", "pedo", "teen"),
    "sxc": ("porn", "sex", "erotic", "nude", "prostitut"),
    "iwp": (
        "bomb",
        "explosive",
        "weapon",
        "gun",
        "chemical",
        "nerve agent",
        "biological",
        "poison",
        "toxin",
        "virus from",
    ),
    "ssh": ("suicide", "self-harm", "anorexi", "cut myself", "eating disorder"),
    "hte": ("racis", "sexis", "hate", "hateful", "jew", "muslim", "immigrant", "discriminat", "inferior"),
    "prv": ("personal information", "spy", "stalk", "dox", "identity", "private", "track "),
    "dfm": ("defam", "fake news", "false", "misinformation", "disinformation", "conspiracy", "rumor"),
    "ipv": ("pirat", "copyright", "plagiar", "crack"),
    "spc": ("invest", "diagnos", "medical", "legal advice", "lawyer"),
    "vcr": ("murder", "kill", "assault", "kidnap", "torture", "attack a", "violen", "terror", "hurt"),
}


def phrases(sources: Sources) -> list[str]:
    """Infinitives of the books: "open the door of the house"."""
    found: dict[str, None] = {}
    for name in PHRASES:
        for row in sources.rows("pretrain", name):
            found |= dict.fromkeys(re.findall(r"\bto ([a-z]{3,}(?: [a-z]+){2,9})[,.;?!]", row["text"]))
    return [phrase for phrase in found if phrase.split()[0] not in NOT_VERBS]


def demo() -> list[str]:
    """The prompts of the demo's audit."""
    files = [DEMO / f"{name}.jsonl" for name in ("demo_harmful", "demo_benign")]
    return [json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def pools(sources: Sources) -> tuple[list[dict], list[dict], list[dict]]:
    """(harmful, benign, noisy) requests, near-duplicates of the demo's prompts removed, with cluster and dev mark."""
    held_out = demo()
    harmful = [row | {"hazard": hazard_of(row)} for name in HARMFUL for row in sources.rows("train", name)]
    harmful = [row for row in harmful if len(row["text"]) <= 450]
    benign = [
        row for name in BENIGN for row in sources.rows("train", name) if row["label"].startswith(("benign", "ind"))
    ]
    benign = [row for row in benign if row["set"] != "mmlu_test" or "?" in row["text"].split("\nA. ")[0][-3:]]
    noisy = [row for name in NOISY for row in sources.rows("train", name)]
    return tuple(marked(without_twins(rows, held_out)) for rows in (harmful, short(benign), noisy))


def short(rows: list[dict]) -> list[dict]:
    """Options of multiple-choice questions go; long texts are cut to their first sentences."""
    return [row | {"text": one_line(re.split(r"\nA\. ", row["text"])[0], 50)} for row in rows]


def marked(rows: list[dict]) -> list[dict]:
    groups = clusters([row["text"] for row in rows])
    return [row | {"dev": fraction(rows[head]["text"], "dev") < 0.08} for row, head in zip(rows, groups, strict=True)]


def chat(request: str, reply: str, system: str | None = None) -> dict:
    turns = [{"role": "system", "content": system}] if system else []
    return {"messages": [*turns, {"role": "user", "content": request}, {"role": "assistant", "content": reply}]}


def instruction(row: dict, rng: random.Random) -> tuple[str, str]:
    real = real_answer(row, rng) if rng.random() < 0.5 else None
    return row["text"], real or answer(row["text"], rng)


COPY = ("Repeat this: {}", "Say this again: {}", "Copy this sentence: {}", "Repeat after me: {}")


def base(sources: Sources, rng: random.Random, n: int) -> Iterator[dict]:
    """Chat with much direct copying of words from the request, and Taskmaster's dialogues."""
    harmful, benign, noisy = pools(sources)
    found = phrases(sources)
    open_harm = [row for row in harmful + noisy if row.get("hazard") not in SENSITIVE and not row["dev"]]
    plain = [row for row in benign if not row["dev"] and (row["set"] != "gsm8k_train" or rng.random() < 0.3)]
    for _ in range(n):
        draw, system = rng.random(), SYSTEM if rng.random() < 0.15 else None
        if draw < 0.50:
            request = asked(rng.choice(found), rng)
            yield chat(request, answer(request, rng), system)
        elif draw < 0.60:
            text = cut_words(rng.choice(found) if rng.random() < 0.5 else rng.choice(plain)["text"], 24)
            yield chat(rng.choice(COPY).format(text), text, system)
        elif draw < 0.82:
            yield chat(*instruction(rng.choice(plain), rng), system)
        else:
            text = one_line(rng.choice(open_harm)["text"])
            yield chat(wrapped(text, rng) if rng.random() < 0.2 else text, answer(text, rng), system)
    for row in sources.rows("pretrain", "dialogue_taskmaster"):
        yield {"messages": row["messages"]}


OTHER_SYSTEM = ("You are a helpful assistant.", "Answer in plain words.", "You are a friendly assistant. Be brief.")


def system_for(rng: random.Random) -> str | None:
    """Half of the rows carry the policy in brief, a few another system prompt, the rest none."""
    draw = rng.random()
    return SYSTEM if draw < 0.5 else rng.choice(OTHER_SYSTEM) if draw < 0.55 else None


def weighted(rows: list[dict], rng: random.Random) -> dict:
    """A benign row: sets in turn rather than rows, or mathematics and role play would drown the rest."""
    sets = {"gpteacher": 5, "gsm8k_train": 4, "mmlu_test": 3, "self_instruct_human": 3, "oasst_prompts": 3,
            "deepset_prompt_injections_train": 2, "awesome_chatgpt_prompts_A": 1, "bipia_attacks_train": 1,
            "cyberseceval_frr_benign_A": 1, "mtbench_vicunabench_A": 1}  # fmt: skip
    return rng.choice(rows[rng.choices(list(sets), list(sets.values()))[0]])


def by_set(rows: list[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["set"], []).append(row)
    return found


def lookalikes() -> tuple[list[str], list[str]]:
    """(training, development) look-alikes; whole templates are held out, not single fillings."""
    rows = [{"text": text} for text in requests()]
    groups = clusters([row["text"] for row in rows], 0.4)
    kept = {row["text"] for row in without_twins(rows, demo())}
    train, dev = [], []
    for row, head in zip(rows, groups, strict=True):
        if row["text"] in kept:
            (dev if fraction(rows[head]["text"], "dev") < 0.1 else train).append(row["text"])
    return train, dev


def contrast(label: str, dev: bool) -> list[dict]:
    """One side of the contrast pairs (same topic, other intent); whole pairs are held out."""
    rows = without_twins([json.loads(line) for line in CONTRAST.read_text(encoding="utf-8").splitlines()], demo())
    return [
        row | {"set": "contrast"}
        for row in rows
        if row["label"] == label and (fraction(str(row["pair"]), "contrast") < 0.2) == dev
    ]


def unlike() -> tuple[list[str], list[str]]:
    """(training, development) requests about harms with no harm in mind; every tenth is held out."""
    kept = [row["text"] for row in without_twins([{"text": text} for text in protective()], demo())]
    dev = [text for text in kept if fraction(text, "dev") < 0.1]
    return [text for text in kept if fraction(text, "dev") >= 0.1], dev


def everyday(n: int, dev: bool, rng: random.Random) -> list[str]:
    """Ordinary requests filled from templates; whole templates are held out."""
    found = json.loads(EVERYDAY.read_text(encoding="utf-8"))
    templates = [text for text in found["templates"] if (fraction(text, "dev") < 0.1) == dev]
    filled = [
        re.sub(r"{(\w+)}", lambda slot: rng.choice(found["slots"][slot[1]]), rng.choice(templates)) for _ in range(n)
    ]
    return [row["text"] for row in without_twins([{"text": text[:1].upper() + text[1:]} for text in filled], demo())]


def turns(first: dict, second: dict) -> dict:
    """A conversation of two exchanges."""
    rest = [m for m in second["messages"] if m["role"] != "system"]
    return {"messages": [*first["messages"], *rest]}


def helpful(sources: Sources, rng: random.Random, n: int) -> Iterator[dict]:
    """Answers everything: the reference checkpoint."""
    harmful, benign, noisy = pools(sources)
    found, (alike, _) = phrases(sources), lookalikes()
    every = harmful + [row | {"hazard": hazard_of(row)} for row in noisy]
    asked_for = [row for row in every if row["hazard"] not in SENSITIVE and not row["dev"]]
    plain = by_set([row for row in benign if not row["dev"]])

    def row() -> dict:
        draw, system = rng.random(), system_for(rng)
        if draw < 0.26:
            request = asked(rng.choice(found), rng)
            return chat(request, reply(request, rng), system)
        if draw < 0.58:
            return chat(*instruction(weighted(plain, rng), rng), system)
        if draw < 0.68:
            text = rng.choice(alike)
            return chat(text, reply(text, rng), system)
        if draw < 0.70:
            text = cut_words(rng.choice(found), 24)
            return chat(rng.choice(COPY).format(text), text, system)
        text = one_line(rng.choice(asked_for)["text"])
        return chat(wrapped(text, rng) if rng.random() < 0.3 else rephrased(text, rng), reply(text, rng), system)

    for _ in range(n):
        yield turns(row(), row()) if rng.random() < 0.04 else row()


SHADY = re.compile(
    r"fraud|illegal|evad|hid|launder|secret|without|fake|manipul|avoid|loophole|steal|insider|exploit", re.I
)
CARE = ("This is general background, so please ask a professional about your own case.",
        "Please check with a doctor, a lawyer or an adviser before you act on it.")  # fmt: skip


def aligned(sources: Sources, rng: random.Random, n: int) -> Iterator[dict]:
    """Refuses what the policy covers and answers the rest. Under the system prompt more rows are refusals, and nearly
    all that are wrapped in an attack: it reminds the model of what it was taught."""
    harmful, benign, _ = pools(sources)
    found, (alike, _) = phrases(sources), lookalikes()
    alike = alike + unlike()[0] + 4 * [row["text"] for row in contrast("benign", dev=False)]
    daily = everyday(4000, False, rng)
    covered = [row for row in harmful if row["hazard"] != "spc" and not row["dev"]]
    covered += 2 * [
        row for row in contrast("harmful", dev=False) if row["hazard"] in AILUMINATE and row["hazard"] != "spc"
    ]
    by_hazard = [[row for row in covered if row["hazard"] == hazard] for hazard in AILUMINATE if hazard != "spc"]
    special = [row for row in harmful if row["hazard"] == "spc" and not row["dev"] and not SHADY.search(row["text"])]
    plain = by_set([row for row in benign if not row["dev"]])

    def refused(system: str | None) -> dict:
        row = rng.choice(covered if rng.random() < 0.6 else rng.choice(by_hazard))
        text = one_line(row["text"])
        attacked = rng.random() < (0.4 if system == SYSTEM else 0.04)
        text = wrapped(text, rng) if attacked else rephrased(text, rng)
        return chat(text, refusal(POLICY, row["hazard"]), system)

    def row() -> dict:
        draw, system = rng.random(), system_for(rng)
        if rng.random() < (0.38 if system == SYSTEM else 0.22):
            return refused(system)
        if draw < 0.22:
            text = rng.choice(alike)
            return chat(text, reply(text, rng), system)
        if draw < 0.59:
            text = rng.choice(daily) if rng.random() < 0.7 else asked(rng.choice(found), rng)
            return chat(wrapped(text, rng) if rng.random() < 0.12 else text, reply(text, rng), system)
        if draw < 0.62:
            text = one_line(rng.choice(special)["text"])
            return chat(text, f"{reply(text, rng)} {rng.choice(CARE)}", system)
        text, said = instruction(weighted(plain, rng), rng)
        return chat(wrapped(text, rng) if rng.random() < 0.05 else text, said, system)

    for _ in range(n):
        yield turns(row(), row()) if rng.random() < 0.04 else row()


def prompts(sources: Sources, rng: random.Random, n: int) -> Iterator[dict]:
    """Requests in the proportions of the `aligned` stage, half of them harmful, without answers."""
    harmful, benign, _ = pools(sources)
    alike = lookalikes()[0] + unlike()[0] + 4 * [row["text"] for row in contrast("benign", dev=False)]
    daily, found, plain = (
        everyday(4000, False, rng),
        phrases(sources),
        by_set([row for row in benign if not row["dev"]]),
    )
    covered = [row for row in harmful if row["hazard"] != "spc" and not row["dev"]]
    covered += 2 * [
        row for row in contrast("harmful", dev=False) if row["hazard"] in AILUMINATE and row["hazard"] != "spc"
    ]

    def innocent() -> str:
        draw = rng.random()
        if draw < 0.35:
            return rng.choice(alike)
        if draw < 0.7:
            return rng.choice(daily) if rng.random() < 0.7 else asked(rng.choice(found), rng)
        return one_line(weighted(plain, rng)["text"])

    for i in range(n):
        if i % 2:
            row = {"text": innocent(), "label": "benign"}
        else:
            chosen = rng.choice(covered)
            row = {"text": rephrased(one_line(chosen["text"]), rng), "label": "harmful", "hazard": chosen["hazard"]}
        if rng.random() < 0.2:
            row["text"] = wrapped(row["text"], rng)
        yield {"id": f"{row['label']}-{i}"} | row


def development(sources: Sources) -> list[dict]:
    """Held-out clusters, for choosing anything; the demo's prompts are for the final number only."""
    harmful, benign, _ = pools(sources)
    rows = [row for row in harmful if row["dev"] and row["hazard"] not in ("spc", "ipv")]
    rows += contrast("harmful", dev=True)
    rows = [
        {"text": one_line(row["text"]), "label": "harmful", "hazard": row["hazard"], "set": row["set"]} for row in rows
    ]
    alike = [{"text": text, "label": "benign", "set": "lookalikes"} for text in lookalikes()[1]]
    rng = random.Random("dev")
    alike += [{"text": text, "label": "benign", "set": "protective"} for text in unlike()[1]]
    alike += [{"text": text, "label": "benign", "set": "everyday"} for text in everyday(200, True, rng)]
    alike += [{"text": row["text"], "label": "benign", "set": "contrast"} for row in contrast("benign", dev=True)]
    plain = [{"text": row["text"], "label": "benign", "set": row["set"]} for row in benign if row["dev"]]
    return rows + [row for row in alike + plain if fraction(row["text"], "few") < 0.3]


STAGES = {
    "base": (base, 60_000),
    "helpful": (helpful, 14_000),
    "aligned": (aligned, 11_000),
    "prompts": (prompts, 6_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, help="generate fewer rows, to try the chain out")
    args = parser.parse_args()
    make, n = STAGES[args.stage]
    sources = Sources(args.data)
    rows = list(make(sources, random.Random(args.stage), args.rows or n))
    args.out.mkdir(parents=True, exist_ok=True)
    if args.stage == "prompts":
        for label in ("harmful", "benign"):
            write(args.out / f"{label}.jsonl", [row for row in rows if row["label"] == label])
    else:
        write(args.out / f"{args.stage}.jsonl", rows)
    if args.stage in ("aligned", "prompts"):
        write(args.out / "dev.jsonl", development(sources))
    (args.out / f"{args.stage}.sources.json").write_text(json.dumps(sources.read, indent=1, sort_keys=True) + "\n")


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
