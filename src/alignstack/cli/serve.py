"""`alignstack serve`."""

import os
from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit, say


@click.command()
@options.stack
@options.option("--host", default="127.0.0.1", show_default=True, help="Other machines reach it only with keys.")
@options.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="0: any free one.")
@options.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
@options.as_json
def serve(stack_file: Path | None, host: str, port: int, workers: int, as_json: bool) -> None:
    """The stack as a server that clients of OpenAI and Anthropic use.

    Clients change their `base_url` to http://HOST:PORT/v1. SIGHUP reads the stack file again; SIGTERM lets running
    requests end.

    \b
    Example:
      alignstack serve --port 8080
    """
    from alignstack.gateway.server import serve as run

    def listening(url: str, source: str) -> None:
        if as_json:
            emit({"url": url, "stack": source, "pid": os.getpid()})
        else:
            say(f"serving {source} on {url}")

    run(stack_file, host=host, port=port, workers=workers, listening=listening)
