"""The reference trajectories anew: `python tests/training/make_trajectories.py [NAME …]`.

One JSON a recipe: the loss of every step of the small run, and the machine it came from. Run it when a recipe or its
data change, and look at the difference before you commit it.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.training.smoke import TRAJECTORIES, Smoke, losses, machine, recipes


def main(names: list[str]) -> None:
    TRAJECTORIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        smoke = Smoke(Path(folder))
        for name in names or sorted(recipes()):
            started = time.monotonic()
            found = {"machine": machine(), "losses": losses(smoke.made(name))}
            (TRAJECTORIES / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
