"""`alignstack serve`."""

from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import say


@click.command()
@options.stack
@options.option("--host", default="127.0.0.1", show_default=True, help="Other machines reach it only with keys.")
@options.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="0: any free one.")
@options.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
def serve(stack_file: Path | None, host: str, port: int, workers: int) -> None:
    """The stack in front of its model, as an HTTP server that OpenAI's and Anthropic's clients can use.

    Clients change their `base_url` to http://HOST:PORT/v1. SIGHUP reads the stack file again; SIGTERM lets running
    requests end.

    \b
    Example:
      alignstack serve --port 8080
    """
    from alignstack.gateway.server import serve as run

    run(stack_file, host=host, port=port, workers=workers, listening=say)
