"""`alignstack schema`."""

import click

from alignstack.cli import options
from alignstack.cli.console import emit


@click.command()
@click.argument("what", type=click.Choice(["stack", "policy"]), default="stack")
@options.as_json
def schema(what: str, as_json: bool) -> None:
    """The JSON Schema of stack or policy files, always as JSON.

    \b
    Example:
      alignstack schema stack > stack.schema.json
    """
    if what == "stack":
        from alignstack.engine.schema import stack_schema

        emit(stack_schema())
    else:
        from alignstack import policy

        emit(policy.schema())
