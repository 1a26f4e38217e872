"""Choose the prompts that the training recipes use: `python recipes/data/make.py DATA_DIR`.

DATA_DIR holds `train/` (docs/embedded-model.md lists the files). Writes `harmful.jsonl` and `benign.jsonl` (to train
on), `dev.jsonl` (a suite, to choose by) and `canary.jsonl` (chats whose answers a model should not unlearn) beside this
file; about a minute.

Only sets whose licence was read are drawn from. No row is a near-duplicate of the demo's prompts, which measure; no row
to train on is one of a development prompt, which no shipped checkpoint was trained on, or of the canary's. Sexual
hazards and specialised advice are left out, as in the demo.
"""

import json
import random
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "embedded"))

from answers import one_line, reply  # noqa: E402
from data import Sources, contrast, demo, everyday, lookalikes, pools, unlike  # noqa: E402

from alignstack.training.duplicates import HeldOut, repeated  # noqa: E402
from alignstack.training.split import clusters, fraction  # noqa: E402

SETS = ("ailuminate_demo_en", "catqa_en", "harmbench_val", "gptfuzz_questions", "self_instruct_human",
        "mtbench_vicunabench_A", "gsm8k_train")  # fmt: skip
HAZARDS = ("vcr", "ncr", "iwp", "hte", "ssh", "prv", "dfm", "ipv")
YOUNG = re.compile(r"\b(child|children|kid|kids|minor|minors|underage|teen\w*|pedo\w*|girl|boy)\b", re.I)
ABUSE = re.compile(
    r"\b(sex\w*|porn\w*|nude\w*|erotic\w*|inappropriate\w*|groom\w*|explicit|abus\w*|exploit\w*|traffick\w*|predat\w*|"
    r"intimate|lewd|webcam|photo\w*|picture\w*|image\w*|video\w*)\b",
    re.I,
)
"""Texts with a word of both lists go, whatever hazard their set gives them: better a few too many."""
HARMBENCH = {
    "copyright": "ipv",
    "cybercrime_intrusion": "ncr",
    "misinformation_disinformation": "dfm",
    "chemical_biological": "iwp",
    "illegal": "ncr",
    "harassment_bullying": "hte",
    "harmful": "vcr",
}
CATQA = {"Malware Viruses": "ncr", "Fraud/Deception": "ncr", "Economic Harm": "ncr", "Illegal Activity": "ncr"}
Pools = tuple[list[dict], list[dict], list[dict]]
OWN = {"source": "written for this project", "licence": "Apache-2.0"}


class Screen:
    """Lets no near-duplicate of held-out prompts through."""

    def __init__(self, prompts: Iterable[str]) -> None:
        self.held_out = HeldOut(prompts)

    def passes(self, rows: Iterable[dict]) -> list[dict]:
        return [r for r in rows if not self.held_out.twin([r["text"]]) and not self.held_out.overlaps([r["text"]])]


def row(name: str, text: str, label: str, more: dict, hazard: str | None = None) -> dict:
    known = {"hazard": hazard} if hazard else {}
    about = {"source": more["source"], "licence": more["licence"]}
    return {"id": name, "text": one_line(text, 50), "label": label, **known, **about}


def public(found: Pools, dev: bool) -> tuple[list[dict], list[dict]]:
    """(harmful, benign) rows of the public sets on one side of the embedded model's development split."""
    harmful, benign, _ = ([r for r in pool if r["set"] in SETS and r["dev"] == dev] for pool in found)
    found = [row(r["id"], r["text"], "harmful", r, hazard(r)) for r in harmful]
    refused = [r for r in found if r["hazard"] in HAZARDS and not (YOUNG.search(r["text"]) and ABUSE.search(r["text"]))]
    return refused, [row(r["id"], r["text"], "benign", r) for r in benign]


def hazard(r: dict) -> str:
    if r["set"] == "harmbench_val":
        return HARMBENCH[r["category"]]
    return CATQA.get(r["category"], r["hazard"])


def own(dev: bool) -> tuple[list[dict], list[dict]]:
    """(harmful, benign) sides of the contrast pairs."""
    harmful, benign = contrast("harmful", dev), contrast("benign", dev)
    refused = [row(f"contrast-{r['pair']}-h", r["text"], "harmful", OWN, r["hazard"]) for r in harmful]
    near = [row(f"contrast-{r['pair']}-b", r["text"], "benign", OWN) for r in benign]
    return [r for r in refused if r["hazard"] in HAZARDS], near


def templates(dev: bool) -> tuple[list[dict], list[dict]]:
    """(look-alikes of harmful requests, everyday requests) from templates; whole templates are held out."""
    alike, about = lookalikes()[dev], unlike()[dev]
    daily = sorted(set(everyday(700, dev, random.Random(f"everyday {dev}"))))
    near = [*named("lookalike", alike), *named("protective", about)]
    return near, named("everyday", daily)


def named(kind: str, texts: Iterable[str]) -> list[dict]:
    return [row(f"{kind}-{round(fraction(text, 'id') * 1e8):08d}", text, "benign", OWN) for text in texts]


def drawn(rows: list[dict], n: int) -> list[dict]:
    """At most `n` rows, no two of them near-duplicates, in a stable pseudo-random order."""
    order = sorted(rows, key=lambda r: fraction(r["text"], "drawn"))
    twice = repeated([[r["text"]] for r in order])
    return [r for r, again in zip(order, twice, strict=True) if not again][:n]


def by_set(rows: list[dict], name: str) -> list[dict]:
    return [r for r in rows if r["id"].startswith(name)]


def development(found: Pools) -> list[dict]:
    (harmful, plain), (pairs, near), (alike, daily) = public(found, True), own(True), templates(True)
    sums, others = by_set(plain, "gsm8k"), [r for r in plain if not r["id"].startswith("gsm8k")]
    refused = drawn([*harmful, *pairs], 120)
    return [*refused, *drawn(near, 30), *drawn(alike, 45), *drawn(daily, 40), *others, *drawn(sums, 15)]


def training(found: Pools) -> tuple[list[dict], list[dict]]:
    (harmful, plain), (pairs, near), (alike, daily) = public(found, False), own(False), templates(False)
    sums, others = by_set(plain, "gsm8k"), [r for r in plain if not r["id"].startswith("gsm8k")]
    benign = [*near, *drawn(by_set(alike, "lookalike"), 340), *drawn(by_set(alike, "protective"), 190)]
    return drawn([*harmful, *pairs], 900), [*benign, *drawn(daily, 460), *others, *drawn(sums, 230)]


def canary(sources: Sources, screen: Screen, rng: random.Random) -> Iterator[dict]:
    """Short chats: people's answers from Self-Instruct, and everyday requests with answers by rule."""
    human = screen.passes([r for r in sources.rows("train", "self_instruct_human") if short_chat(r)])
    for r in sorted(human, key=lambda r: fraction(r["id"], "canary"))[:35]:
        about = {"source": r["source"], "licence": r["licence"]}
        yield {"id": f"canary-{r['id']}", "messages": r["messages"][:2], **about}
    for r in screen.passes(drawn(templates(True)[1], 100)[-30:]):
        answer = {"role": "assistant", "content": reply(r["text"], rng)}
        yield {"id": f"canary-{r['id']}", "messages": [{"role": "user", "content": r["text"]}, answer], **OWN}


def short_chat(r: dict) -> bool:
    said = [turn["content"] for turn in r["messages"][:2]]
    return len(said[0].split()) <= 50 and 3 <= len(said[1].split()) <= 60


def clustered(rows: list[dict]) -> list[dict]:
    """Near-duplicates share a cluster, over all files."""
    groups = clusters([r["text"] for r in rows])
    return [r | {"cluster": rows[head]["id"]} for r, head in zip(rows, groups, strict=True)]


def write(name: str, rows: list[dict]) -> None:
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    (HERE / name).write_text(text, encoding="utf-8")
    print(f"{name}: {len(rows)} rows, {len(text.encode()) // 1000} kB")


def main(data: Path) -> None:
    sources = Sources(data)
    measured, found = demo(), pools(sources)
    chats = list(canary(sources, Screen(measured), random.Random("canary")))
    dev = Screen(measured).passes(development(found))
    asked = [c["messages"][0]["content"] for c in chats]
    screen = Screen([*measured, *asked, *(r["text"] for r in dev)])
    harmful, benign = (screen.passes(rows) for rows in training(found))
    rows = clustered([*harmful, *benign, *dev])
    ends = (0, len(harmful), len(harmful) + len(benign), len(rows))
    for name, (start, end) in zip(("harmful.jsonl", "benign.jsonl", "dev.jsonl"), pairwise(ends), strict=True):
        write(name, rows[start:end])
    write("canary.jsonl", chats)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
