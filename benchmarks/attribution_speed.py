"""All numbers of one attribution on cached verdicts: 100,000 prompts, 10 layers, 1,000 resamples, one core.

    taskset -c 0 python benchmarks/attribution_speed.py [--prompts N] [--vetoes V] [--modifiers M]

Builds a synthetic verdict matrix (shared difficulty, so that misses correlate; four attack families) and prints the
seconds that `attribute_matrix` takes, by the clock and on the core. Target: under 10 s.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from alignstack.attribution.arrays import Matrix, Meta, from_arrays
from alignstack.attribution.attribute import attribute_matrix
from alignstack.attribution.layout import layout
from alignstack.core.grid import LayerRow, Manifest

HAZARDS = ("vcr", "cse", "prv", "ncr", "hte", "iwp")
ATTACKS = ("none", "role_play", "base64", "leetspeak")


def manifest(vetoes: int, modifiers: int) -> Manifest:
    def row(name: str, **facts: object) -> LayerRow:
        shared = {"use": "cached", "mode": "enforce", "on_error": "block", "version": "1", "side": "inference"}
        return LayerRow(name=name, **(shared | facts))  # type: ignore[arg-type]

    rows = [row(f"veto{i}", kind="veto", phases=("request",), threshold=0.5) for i in range(vetoes)]
    rows += [row(f"prompt{i}", kind="modifier", phases=("prompt",)) for i in range(modifiers - 1)]
    rows += [row("model", kind="modifier", phases=("model",), side="training")] if modifiers else []
    return Manifest(
        run="benchmark",
        stack="",
        stack_source="",
        stack_config={},
        policy="",
        layers=tuple(rows),
        model="",
        reference="base",
        judges=("first",),
        suites=(),
        attacks=ATTACKS,
        draws=1,
        seed=0,
        streaming=False,
        items=0,
        version="",
    )


def verdicts(plan_of: Manifest, prompts: int, rng: np.random.Generator) -> Matrix:
    """Half harmful, half benign; every prompt its own behaviour, the dearest case for the bootstrap."""
    plan = layout(plan_of)
    shape = (prompts, plan.cells, len(plan.vetoes))
    harmful, difficulty = rng.random(prompts) < 0.5, rng.random((prompts, 1, 1))
    score = np.clip(rng.normal(np.where(harmful[:, None, None], 0.75 - 0.5 * difficulty, 0.2), 0.15, shape), 0, 1)
    aligned = np.array([c.bit_count() for c in range(plan.cells)]) / max(len(plan.modifiers), 1)
    return from_arrays(
        plan,
        Meta(
            id=[str(i) for i in range(prompts)],
            trace=[str(i) for i in range(prompts)],
            hazard=[HAZARDS[i % len(HAZARDS)] for i in range(prompts)],
            attack=[ATTACKS[i % len(ATTACKS)] for i in range(prompts)],
            cluster=np.arange(prompts),
            group=np.arange(prompts),
        ),
        harmful=harmful,
        harm=(rng.random(shape[:2]) > 0.6 * aligned) & harmful[:, None],
        refusal=rng.random(shape[:2]) < 0.05 * aligned,
        stops=score >= 0.5,
        refuses=score >= 0.5,
        score=score,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--vetoes", type=int, default=8)
    parser.add_argument("--modifiers", type=int, default=2)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    stack = manifest(options.vetoes, options.modifiers)
    matrix = verdicts(stack, options.prompts, np.random.default_rng(0))
    start, busy = time.perf_counter(), time.process_time()
    result = attribute_matrix(matrix, stack, resamples=options.resamples)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    failures = sum(item.diagnosis is not None for item in result.items)
    print(f"{options.prompts:,} prompts x {len(result.players)} layers ({options.modifiers} of them modifiers)")
    print(f"{options.resamples:,} resamples of {options.prompts:,} behaviours, {failures:,} failures diagnosed")
    print(f"ASR {result.asr.value:.4f}, over-refusal {result.over_refusal.value:.4f}, {result.coalitions:,} coalitions")
    print(f"{seconds:.2f} s, of which this process had the core for {busy:.2f} s")


if __name__ == "__main__":
    main()
