"""Pictures of what the commands show, made from their real output: run `make demo` first, then this script.

    python docs/images/build.py [alignstack-demo]

`ask.svg` and `attribute.svg` are terminals; `report.png`, the top of the page, needs a Chromium on the PATH.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from alignstack.redteam.suites import PHISHING

HERE = Path(__file__).parent
WIDTH = 108
"""Columns: wide enough for intervals, too narrow for the texts of failures."""
WINDOW = "1280,1800"
SVG = re.sub(r"@font-face \{.*?\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "monospace"
)
"""Rich's picture of a terminal without the fonts that it would load from the network."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def terminal(name: str, *command: str) -> None:
    """Runs the command with colours and writes its output as `name`.svg."""
    colours = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "COLORTERM": "truecolor"}
    done = subprocess.run(command, env=colours, capture_output=True, text=True, check=True)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(done.stdout.strip("\n")), no_wrap=True, crop=False)
    title = " ".join(f'"{word}"' if " " in word else word for word in command)
    (HERE / f"{name}.svg").write_text(
        console.export_svg(title=title, code_format=SVG, unique_id=name), encoding="utf-8"
    )


def page(html: Path) -> None:
    """The top of the report as report.png."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"no browser for the picture of the page; install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as profile:
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars")  # fmt: skip
        picture = (f"--user-data-dir={profile}", f"--screenshot={HERE / 'report.png'}", f"--window-size={WINDOW}")
        subprocess.run([browser, *flags, *picture, html.resolve().as_uri()], check=True, capture_output=True)


def main(folder: Path) -> None:
    run = max(folder.glob("run-*"), key=lambda path: path.stat().st_mtime)
    terminal("ask", "alignstack", "ask", PHISHING)
    terminal("attribute", "alignstack", "attribute", str(run))
    page(folder / "report.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "alignstack-demo"))
