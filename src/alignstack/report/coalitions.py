"""Every coalition of the layers as a configuration: the points of the plot of ASR against over-refusal."""

from collections.abc import Sequence

from alignstack.attribution import result as found
from alignstack.attribution.matrix import from_records
from alignstack.attribution.rates import rate
from alignstack.attribution.shares import Game, cost, safety
from alignstack.core.grid import Manifest, Record

MOST = 256
"""Coalitions measured; with more layers the named ones are left alone. Chosen by hand: what a plot can show."""


def coalitions(
    attribution: found.Attribution, manifest: Manifest, records: Sequence[Record]
) -> tuple[found.Configuration, ...]:
    """Those that have no name yet, called by their layers (`all but X` where one is missing). Layers that gave no
    opinion in the audit (rate limits) are left out of them: they change nothing."""
    idle = {layer.name for layer in attribution.layers if layer.looked == 0}
    free = [name for name in attribution.players if name not in idle]
    if not records or 2 ** len(free) > MOST:
        return ()
    known = {frozenset(one.on) - idle for one in attribution.configurations}
    matrix = from_records(records, manifest)
    safe = safety(matrix, matrix.harmful & matrix.usable)
    paid = cost(matrix, ~matrix.harmful & matrix.usable)
    subsets = [[name for i, name in enumerate(free) if mask >> i & 1] for mask in range(2 ** len(free))]
    return tuple(_measured(on, free, safe, paid) for on in subsets if frozenset(on) not in known)


def _measured(on: list[str], free: list[str], safe: Game, paid: Game) -> found.Configuration:
    mask = sum(safe.layout.bit(name) for name in on)
    missing = [name for name in free if name not in on]
    return found.Configuration(
        name=f"all but {missing[0]}" if len(missing) == 1 else " + ".join(on),
        on=tuple(on),
        asr=rate(safe.passes(mask)),
        over_refusal=rate(~paid.passes(mask)),
    )
