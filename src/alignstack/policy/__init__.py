"""The policy file: load, check, compare, fingerprint, render. Training and run time read the same one."""

from alignstack.policy import render, strict
from alignstack.policy.check import check
from alignstack.policy.diff import Change, diff
from alignstack.policy.load import BUILTIN, load, schema
from alignstack.policy.model import ATTACKS, CANONICAL, OPENING, Action, Hazard, Names, Policy, Principle, Taxonomy

__all__ = [
    "ATTACKS", "BUILTIN", "CANONICAL", "OPENING", "Action", "Change", "Hazard", "Names", "Policy", "Principle",
    "Taxonomy", "check", "diff", "load", "render", "schema", "strict",
]  # fmt: skip
