"""Preference losses by name: which there are, what each needs, what it is worth while policy and reference agree.

Most are TRL's and are read from it at run time, so another TRL brings other names. `dpo` is its `sigmoid`. `cdpo` is
made of two of its terms. `orpo`, `cpo` and `simpo` compare without a reference; they are experimental in TRL.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from alignstack.core.errors import ConfigError, Problem, nearest
from alignstack.training import trainer
from alignstack.training.recipe import Strict

OWN = {"dpo": "sigmoid", "cdpo": "sigmoid", "orpo": "orpo", "cpo": "sigmoid", "simpo": "simpo"}
"""Names of ours, and what TRL calls the loss."""
FREE = ("orpo", "cpo", "simpo")
SMOOTHED = {"cdpo", "robust", "exo_pair", "aot", "aot_unpaired"}
NEED_SMOOTHING = {
    "cdpo": "the share of labels that you believe wrong (Mitchell 2023)",
    "robust": "the share of labels that you believe wrong; the paper's is 0.1 (Chowdhury et al. 2024)",
    "exo_pair": "1.0e-3 in the paper (Ji et al. 2024)",
}
TAU = 0.05
"""DiscoPOP's temperature (Lu et al. 2024), also TRL's default."""
BETA = {"simpo": 2.0, "hinge": 0.05, "nca_pair": 0.01, "bco_pair": 0.01, "discopop": 0.05}
"""What the papers use where it is not DPO's 0.1 (Meng et al. 2024; Liu et al. 2023, RSO; Chen et al. 2024; Jung et al.
2024; Lu et al. 2024)."""
FALL, FALL_A_TOKEN = 10.0, 0.5
"""Nats by which chosen answers may become less likely before the alarm: per answer, and per token for the losses that
average over tokens. Chosen by hand: a harmless run of recipes/dpo.yaml stays below."""


class Preference(Strict):
    """The settings of a loss, as recipes give them."""

    loss: str | list[str] = "dpo"
    """One name, or several that are added up."""
    loss_weights: list[float] = Field(default=[])
    """One for each loss; all 1 when left out."""
    beta: float | None = Field(default=None, gt=0)
    """How dear it is to move away from the reference: larger means nearer. IPO's tau, ORPO's lambda. The paper's when
    left out, 0.1 for most."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability that a label is wrong: `robust`, `cdpo`, `exo_pair`, `aot`."""
    gamma: float = Field(default=1.0, ge=0)
    """SimPO's target margin, in the unit of beta times nats a token."""
    sft_weight: float | None = Field(default=None, ge=0)
    """Weight of the next-token loss that `cpo` (1, Xu et al. 2024) and `simpo` (0) carry of their own; other losses
    take `sft` as a further loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A loss, ready for TRL."""

    trainer: Literal["dpo", "orpo", "cpo"]
    settings: dict[str, Any]
    beta: float
    at_start: float | None
    """Its value on the first step, when policy and reference are the same; None where that is not known."""

    @property
    def chosen(self) -> tuple[str, float, str, float]:
        """How to read how likely chosen answers are: TRL's metric, factor to nats, what the nats are of, bound on their
        fall."""
        if self.trainer == "dpo":  # the difference to the reference: answers' lengths cancel out
            return "rewards/chosen", 1 / self.beta, "an answer", FALL
        a_token = self.trainer == "orpo" or self.settings["loss_type"] == "simpo"
        return "logps/chosen", 1.0, "a token" if a_token else "an answer", FALL_A_TOKEN if a_token else FALL


def plan(config: Preference, file: str) -> Plan:
    """What TRL is told. Raises ConfigError with everything that is wrong."""
    names = [config.loss] if isinstance(config.loss, str) else list(config.loss)
    problems = [Problem(where=f"{file}: {key}", what=what) for key, what in _problems(config, names)]
    if problems:
        raise ConfigError(problems)
    beta = config.beta or BETA.get(names[0], 0.1)
    if names[0] == "orpo":
        return Plan(trainer="orpo", settings={"beta": beta}, beta=beta, at_start=None)
    if names[0] in FREE:
        return _without_reference(config, names[0], beta)
    terms = _terms(names, config.loss_weights or [1.0] * len(names), config.label_smoothing)
    settings = {
        "loss_type": [name for name, _ in terms],
        "loss_weights": [weight for _, weight in terms],
        "beta": beta,
        "label_smoothing": config.label_smoothing,
        "discopop_tau": TAU,
    }
    worth = [at_zero(name, beta, config.label_smoothing) for name, _ in terms]
    known = [value * weight for value, (_, weight) in zip(worth, terms, strict=True) if value is not None]
    at_start = sum(known) if len(known) == len(terms) else None
    return Plan(trainer="dpo", settings=settings, beta=beta, at_start=at_start)


def at_zero(name: str, beta: float, epsilon: float) -> float | None:
    """A TRL loss of one pair while policy and reference give both answers the same probability; None for losses that
    depend on more (`sft`) or are not known here."""
    ln2 = math.log(2)
    values = dict.fromkeys(("sigmoid", "robust", "aot", "aot_unpaired", "sigmoid_norm"), ln2)
    values |= {"hinge": 1.0, "nca_pair": 2 * ln2, "bco_pair": 2 * ln2, "apo_zero": 1.0, "apo_down": 1.0}
    values |= {"ipo": (1 / (2 * beta)) ** 2, "sppo_hard": 2 * (1 / (2 * beta)) ** 2, "discopop": (ln2 + 1) / 2}
    if epsilon > 0:
        values["exo_pair"] = -ln2 - (math.log(1 - epsilon) + math.log(epsilon)) / 2
    return values.get(name)


def _terms(names: Sequence[str], weights: Sequence[float], epsilon: float) -> list[tuple[str, float]]:
    """TRL's names with their weights. TRL has no cDPO (its `sigmoid` does not read `label_smoothing`), but with
    A = sigmoid and R = robust = ((1 - e) A - e B) / (1 - 2e), where B is A with the answers exchanged,
    cDPO = (1 - e) A + e B = 2 (1 - e) A - (1 - 2e) R."""
    terms = []
    for name, weight in zip(names, weights, strict=True):
        if name == "cdpo":
            terms += [("sigmoid", 2 * (1 - epsilon) * weight), ("robust", -(1 - 2 * epsilon) * weight)]
        else:
            terms.append((OWN.get(name, name), weight))
    return terms


def _without_reference(config: Preference, name: str, beta: float) -> Plan:
    weight = config.sft_weight if config.sft_weight is not None else {"cpo": 1.0, "simpo": 0.0}[name]
    settings = {"loss_type": OWN[name], "beta": beta, "cpo_alpha": weight}
    if name == "simpo":
        settings["simpo_gamma"] = config.gamma
    return Plan(trainer="cpo", settings=settings, beta=beta, at_start=None)


def _problems(config: Preference, names: list[str]) -> list[tuple[str, str]]:
    """Key and what is wrong with it."""
    valid = [*OWN, *trainer.losses()]
    found = [("loss", f"no loss {name!r}{nearest(name, valid)}; there are: {', '.join(valid)}")
             for name in names if name not in valid]  # fmt: skip
    if not names or set(names) <= {"sft"}:
        found.append(("loss", "needs a loss that compares answers; for `sft` alone: `alignstack train sft`"))
    if len(names) > 1 and (alone := [name for name in names if name in FREE]):
        found.append(("loss", f"{alone[0]!r} has no reference and stands alone"))
    if config.loss_weights and len(config.loss_weights) != len(names):
        found.append(("loss_weights", f"{len(config.loss_weights)} weights for {len(names)} losses"))
    return found + _settings(config, names)


def _settings(config: Preference, names: list[str]) -> list[tuple[str, str]]:
    found = []
    if config.label_smoothing == 0:
        found = [
            ("label_smoothing", f"{name!r} needs {NEED_SMOOTHING[name]}") for name in names if name in NEED_SMOOTHING
        ]
    elif not SMOOTHED & set(names):
        found.append(("label_smoothing", f"no loss here reads it, only {', '.join(sorted(SMOOTHED))} do"))
    if "gamma" in config.model_fields_set and "simpo" not in names:
        found.append(("gamma", "only `simpo` reads it"))
    if config.sft_weight is not None and not {"cpo", "simpo"} & set(names):
        found.append(("sft_weight", "only `cpo` and `simpo` read it; other losses take `sft` as a further loss"))
    if "simpo" in names and config.gamma > (config.beta or BETA["simpo"]):
        found.append(("gamma", "above beta, so that more than 1 nat a token is asked for; the paper's gamma / beta is "
                               "0.1 to 0.8 (Meng et al. 2024)"))  # fmt: skip
    return found
