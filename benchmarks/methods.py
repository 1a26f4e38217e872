"""What each training method buys, outside and inside a deployment: `python benchmarks/methods.py`.

Trains every recipe of `recipes/` that starts from a checkpoint, with three seeds and its parents likewise, and audits
each result on the demo's prompts, on none of which anything was trained: guards off (the weights alone) and guards on
(the whole built-in stack). Prints the table of docs/training.md; `--write FILE` puts it between the marks there.
Finished parts in `--out` are not done again. Needs the `train` extra; about an hour on two cores.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
RUNS = "../runs/"
"""How recipes name the results of other recipes."""
BEGIN, END = "<!-- methods table -->", "<!-- end of methods table -->"
NOTE = (
    "{} harmful and {} benign prompts a seed, none trained on; three seeds, but for starting points. In brackets 95% "
    "intervals that resample seeds and prompts; for the other columns the range over seeds. Canary: perplexity of good "
    "answers to everyday requests. KL: nats a token from where the method starts, on those requests. Minutes: one "
    "core, shared with other work. MB: peak memory of the process, of which about 500 are libraries."
)
NOT_MODELS = ("reward",)
"""Methods whose result answers nothing: parents only."""


# ---------------------------------------------------------------- recipes


def recipes() -> dict[str, dict]:
    """Name → recipe, of all that train a language model from a checkpoint."""
    found = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        method = path.read_text(encoding="utf-8").split("alignstack train ")[-1].split()[0]
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "parent" in tree:
            found[path.stem] = {"method": method, "tree": tree}
    return found


def strings(tree: object) -> list[str]:
    """Every string in a tree of YAML."""
    if isinstance(tree, dict):
        return [text for value in tree.values() for text in strings(value)]
    if isinstance(tree, list):
        return [text for value in tree for text in strings(value)]
    return [tree] if isinstance(tree, str) else []


def parents(tree: dict) -> set[str]:
    """Names of the recipes whose results this one needs."""
    return {text.removeprefix(RUNS).split("/")[0] for text in strings(tree) if text.startswith(RUNS)} - {
        tree["out"].removeprefix(RUNS)
    }


def placed(tree: object, seed: int, out: Path) -> object:
    """The same recipe for another folder: results of recipes by seed, data files where they lie."""
    if isinstance(tree, dict):
        return {key: placed(value, seed, out) for key, value in tree.items()}
    if isinstance(tree, list):
        return [placed(value, seed, out) for value in tree]
    if isinstance(tree, str) and tree.startswith(RUNS):
        name, *rest = tree.removeprefix(RUNS).split("/")
        return str(out.joinpath(f"{name}-{seed}", *rest))
    return str(RECIPES / tree) if isinstance(tree, str) and (RECIPES / tree).is_file() else tree


def train(name: str, recipe: dict, seed: int, out: Path) -> None:
    """In a process of its own, so that its memory is its own."""
    if (out / f"{name}-{seed}" / "lineage.json").is_file():
        return
    tree = {key: value for key, value in recipe["tree"].items() if key not in ("evaluate", "save_every")}
    file = out / f"{name}-{seed}.yaml"
    file.write_text(yaml.safe_dump(placed(tree | {"seed": seed}, seed, out)), encoding="utf-8")
    work = out / f"{name}-{seed}.work"
    resume = ["--resume"] if work.exists() else []
    call("-m", "alignstack", "train", recipe["method"], "--config", str(file), *resume)


def call(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}:\n{done.stderr[-2000:]}")


# ---------------------------------------------------------------- measuring


def measure(checkpoint: Path, parent: Path, into: Path, limit: int) -> None:
    """Outcomes of every prompt with guards off and on, the canary, and the distance from the parent."""
    from alignstack.training import export, lineage, scores, trainer

    chats = [json.loads(line)["messages"] for line in (RECIPES / "data/canary.jsonl").read_text().splitlines()]
    model, tokenizer = trainer.load(checkpoint)
    file = export.run(checkpoint, into / "export")
    stage = lineage.read(checkpoint)
    measured = asyncio.run(audited(deployed(file, into), into / "audit", limit)) | {
        "canary": scores.perplexity(model, tokenizer, chats),
        "kl": scores.kl(checkpoint, parent, [chat[:-1] for chat in chats]),
        "minutes": stage.seconds / 60,
        "mb": stage.peak_mb,
    }
    (into / "result.json").write_text(json.dumps(measured), encoding="utf-8")


def deployed(file: Path, into: Path) -> object:
    """The built-in stack round an exported checkpoint."""
    from alignstack.engine.config import load_stack

    tree = yaml.safe_load((ROOT / "src/alignstack/engine/builtin.yaml").read_text())
    stack = into / "stack.yaml"
    stack.write_text(yaml.safe_dump(tree | {"model": {"use": "embedded", "checkpoint": str(file)}}))
    return load_stack(stack)


async def audited(stack: object, run: Path, limit: int) -> dict[str, list]:
    """For each item: label, cluster, and whether it fails with guards off and on: harm that gets through, an innocent
    request that is refused."""
    from alignstack.attribution.stages import fails
    from alignstack.redteam import suites
    from alignstack.redteam.audit import audit
    from alignstack.store.clock import SystemClock

    items = suites.limit(suites.demo(), limit)
    done = await audit(stack, items, out=run, clock=SystemClock(), resume=True, concurrency=2)
    records = done.records()
    return {
        "label": [record.label for record in records],
        "cluster": [record.cluster for record in records],
        "off": [fails(record) for record in records],
        "on": [fails(record, stack.enforced) for record in records],
    }


def rate(results: list[dict], label: str, guards: str) -> str:
    """Mean over seeds in per cent, with a 95% interval that resamples seeds and clusters of prompts."""
    chosen = np.array(results[0]["label"]) == label
    values = np.array([np.array(result[guards])[chosen] for result in results], dtype=float)
    _, cluster = np.unique(np.array(results[0]["cluster"])[chosen], return_inverse=True)
    rng, draws = np.random.default_rng(0), []
    for _ in range(2000):
        seeds = rng.integers(len(values), size=len(values))
        weight = np.bincount(rng.integers(cluster.max() + 1, size=cluster.max() + 1), minlength=cluster.max() + 1)
        draws.append(np.average(values[seeds].mean(axis=0), weights=weight[cluster]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{values.mean():.1%} ({low:.1%}–{high:.1%})"


def spread(results: list[dict], key: str, digits: int) -> str:
    """Mean and range over seeds."""
    values = [result[key] for result in results]
    if not any(values):  # of a starting point
        return "–"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if min(values) == max(values) else f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


# ---------------------------------------------------------------- the table


def table(found: dict[str, list[dict]], origin: dict[str, str]) -> str:
    lines = [
        "| method | from | ASR, guards off | ASR, guards on | over-refusal, off | over-refusal, on | canary | KL "
        "| minutes | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, results in found.items():
        cells = [rate(results, "harmful", guards) for guards in ("off", "on")]
        cells += [rate(results, "benign", guards) for guards in ("off", "on")]
        cells += [spread(results, key, digits) for key, digits in (("canary", 2), ("kl", 3), ("minutes", 1), ("mb", 0))]
        lines.append(f"| {name} | {origin.get(name, '–')} | {' | '.join(cells)} |")
    labels = next(iter(found.values()))[0]["label"]
    return "\n".join([*lines, "", NOTE.format(labels.count("harmful"), labels.count("benign"))])


def work(name: str, recipe: dict, seed: int, out: Path, limit: int) -> None:
    train(name, recipe, seed, out)
    into = out / f"{name}-{seed}.measured"
    if recipe["method"] in NOT_MODELS or (into / "result.json").is_file():
        return
    into.mkdir(exist_ok=True)
    start = placed(recipe["tree"]["parent"], seed, out)
    call(__file__, "--measure", str(out / f"{name}-{seed}"), str(start), str(into), "--limit", str(limit))
    print(f"{name}, seed {seed}: done", file=sys.stderr, flush=True)


def untrained(start: str, out: Path, limit: int) -> dict:
    """What a method starts from, measured alike."""
    into = out / f"{start.replace(':', '-')}.measured"
    if not (into / "result.json").is_file():
        into.mkdir(exist_ok=True)
        call(__file__, "--measure", start, start, str(into), "--limit", str(limit))
    return json.loads((into / "result.json").read_text())


def result(checkpoint: Path) -> dict:
    return json.loads(Path(f"{checkpoint}.measured/result.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs/methods")
    parser.add_argument("--only", nargs="*", help="recipes by name; their parents are trained as well")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--limit", type=int, default=150, help="harmful and benign prompts")
    parser.add_argument("--write", type=Path, help="a page with the marks of the table")
    parser.add_argument("--measure", nargs=3, type=str, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        from alignstack.training.stage import find

        checkpoint, parent = (find(name, ROOT / "x") for name in args.measure[:2])
        measure(checkpoint, parent, Path(args.measure[2]), args.limit)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    known = recipes()
    wanted = closure(known, args.only or list(known))
    for seed in range(1, args.seeds + 1):
        each(wanted, known, lambda name, seed=seed: work(name, known[name], seed, args.out, args.limit), args.jobs)
    names = [name for name in TopologicalSorter(wanted).static_order() if known[name]["method"] not in NOT_MODELS]
    names = [name for name in names if not args.only or name in args.only]
    origin = {name: known[name]["tree"]["parent"].removeprefix(RUNS) for name in names}
    found = {
        start: [untrained(start, args.out, args.limit)] for start in dict.fromkeys(origin.values()) if ":" in start
    }
    found |= {name: [result(args.out / f"{name}-{seed}") for seed in range(1, args.seeds + 1)] for name in names}
    made = table(found, origin)
    print(made)
    if args.write:
        head, rest = args.write.read_text(encoding="utf-8").split(BEGIN)
        args.write.write_text(f"{head}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def closure(known: dict[str, dict], names: list[str]) -> dict[str, set[str]]:
    """The recipes wanted and all that they need, each with what it needs."""
    found: dict[str, set[str]] = {}
    while names:
        name, *names = names
        if name not in found:
            found[name] = parents(known[name]["tree"])
            names += sorted(found[name])
    return found


def each(wanted: dict[str, set[str]], known: dict[str, dict], do: object, jobs: int) -> None:
    """Run `do` for every recipe after those it needs, `jobs` at once."""
    sorter = TopologicalSorter(wanted)
    sorter.prepare()
    running: dict = {}
    with ThreadPoolExecutor(jobs) as pool:
        while sorter.is_active():
            running |= {pool.submit(do, name): name for name in sorter.get_ready()}
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                sorter.done(running.pop(future))


if __name__ == "__main__":
    main()
