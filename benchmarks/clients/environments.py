"""One virtual environment for each client, outside the tree: they want versions that neither we nor each other can."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path.home() / ".cache" / "alignstack-clients"

STEPS = {
    "garak": ("torch==2.13.0", "garak==0.17.1"),
    "pyrit": ("pyrit==1.1.0",),
    "inspect": ("openai==3.57.0", "inspect_ai==0.3.285"),
}
"""Installed one after the other, what came before held fast: torch first, as garak alone would bring its CUDA build of
several gigabytes."""


def python(name: str, folder: Path) -> Path:
    """The interpreter of one client; its environment is made at the first use, and again when `STEPS` has changed."""
    place, wanted = folder / name, "\n".join(STEPS[name])
    program, installed = place / "bin" / "python", place / "installed"
    if not installed.exists() or installed.read_text() != wanted:
        print(f"installing {', '.join(STEPS[name])} into {place} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        for step in range(len(STEPS[name])):
            pip = (str(program), "-m", "pip", "install", "--quiet")
            subprocess.run([*pip, *STEPS[name][: step + 1]], check=True)
        installed.write_text(wanted)
    return program
