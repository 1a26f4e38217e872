"""Every recipe of the repository, in small: it runs offline, learns as it did before, and survives a kill."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from alignstack.training import lineage
from tests.training.smoke import STEPS, TRAJECTORIES, Smoke, losses, recipes, reference

NEAR = 0.02
"""Allowed difference of a loss, absolute and relative. The same kind of machine gives the same bits; another one adds
up in another order, which twenty steps in float32 turn into less than this, unless a sampled token flips."""
FAMILIES = {"sft": "sft", "dpo": "dpo", "kto": "kto", "reward": "reward", "policy gradient": "rlhf"}
"""One recipe for each of TRL's trainers."""
NAMES = sorted(recipes())


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    os.environ["OMP_NUM_THREADS"] = "1"
    return Smoke(tmp_path_factory.mktemp("smoke"))


@pytest.mark.parametrize("name", NAMES)
def test_recipe_learns_as_it_did(smoke: Smoke, name: str) -> None:
    checkpoint = smoke.made(name)
    found, wanted = losses(checkpoint), reference(name)["losses"]
    assert set(found) == set(wanted)
    for part, curve in wanted.items():
        assert len(curve) == len(found[part]) >= STEPS
        np.testing.assert_allclose(found[part], curve, rtol=NEAR, atol=NEAR)
    assert lineage.read(checkpoint).steps >= STEPS
    assert (checkpoint / "README.md").is_file() and not checkpoint.with_name(f"{name}.work").exists()


@pytest.mark.parametrize("name", sorted(FAMILIES.values()))
def test_killed_run_ends_with_the_same_weights(smoke: Smoke, name: str) -> None:
    whole, out = smoke.made(name), f"{name}-killed"
    assert smoke.run(name, out, kill=12) == -signal.SIGKILL, smoke.said(out)
    assert not (whole.parent / out).exists()
    assert smoke.run(name, out, resume=True) == 0, smoke.said(out)
    assert lineage.read(whole.parent / out).weights == lineage.read(whole).weights
    assert losses(whole.parent / out) == losses(whole)


def test_nothing_has_called_out(smoke: Smoke) -> None:
    """Of all runs before; with a run of its own where this test is asked for alone."""
    smoke.made("sft")
    assert smoke.calls == []


def test_watch_sees_what_calls_out(tmp_path: Path) -> None:
    """The guard itself: in a process like that of a run, a look-up is written down and fails."""
    import multiprocessing

    process = multiprocessing.get_context("spawn").Process(target=_call, args=(tmp_path / "network.log",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert "getaddrinfo" in (tmp_path / "network.log").read_text(encoding="utf-8")


def _call(log: Path) -> None:
    import socket

    from tests.training import smoke

    smoke._watch(log)
    with pytest.raises(OSError):
        socket.create_connection(("localhost", 9), timeout=1)


def test_every_recipe_has_a_trajectory_and_every_trajectory_a_recipe() -> None:
    assert sorted(path.stem for path in TRAJECTORIES.glob("*.json")) == NAMES
