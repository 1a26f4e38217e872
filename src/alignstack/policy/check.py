"""What is legal in a policy and yet probably not meant. What is illegal, `load` refuses."""

from alignstack.core.errors import Problem, nearest
from alignstack.policy.model import ATTACKS, CANONICAL, Hazard, Policy

BRIEF_CHARS = 400
"""Longer briefs crowd small context windows; chosen by hand."""


def check(policy: Policy, file: str = "policy") -> list[Problem]:
    """Doubtful spots, by path; empty when there are none. Overrides for layer names that no stack has are legal."""
    found = [problem for name, hazard in policy.hazards.items() for problem in _hazard(name, hazard, file)]
    if len(policy.brief) > BRIEF_CHARS:
        what = f"{len(policy.brief)} characters; the brief system prompt is meant to stay under {BRIEF_CHARS}"
        found.append(Problem(where=f"{file}: brief", what=what))
    return found + _repeated(policy, file)


def _hazard(name: str, hazard: Hazard, file: str) -> list[Problem]:
    where = f"{file}: hazards.{name}"
    found = []
    if hazard.kind == "hazard" and not any(hazard.maps.model_dump().values()):
        found.append(Problem(where=f"{where}.maps", what="no other tool's name is mapped to this hazard"))
    if name not in (*CANONICAL, *ATTACKS) and (close := nearest(name, CANONICAL)).startswith("; did you mean"):
        found.append(Problem(where=where, what=f"not a canonical hazard id{close}"))
    if (name in ATTACKS) != (hazard.kind == "attack") and name in (*CANONICAL, *ATTACKS):
        found.append(Problem(where=f"{where}.kind", what=f"{hazard.kind!r} is not what {name!r} is"))
    same = sorted(layer for layer, action in hazard.per_layer.items() if action == hazard.action)
    found += [Problem(where=f"{where}.per_layer.{layer}", what="repeats `action` and has no effect") for layer in same]
    return found


def _repeated(policy: Policy, file: str) -> list[Problem]:
    first: dict[str, int] = {}
    found = []
    for index, principle in enumerate(policy.principles):
        earlier = first.setdefault(principle.text.casefold(), index)
        if earlier != index:
            what = f"says the same as principles[{earlier}]"
            found.append(Problem(where=f"{file}: principles[{index}].text", what=what))
    return found
