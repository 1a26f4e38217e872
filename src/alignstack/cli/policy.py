"""`alignstack policy check|diff`."""

from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit


@click.group()
def policy() -> None:
    """Validate and compare policy files.

    \b
    Example:
      alignstack policy check policy.yaml
    """


@policy.command()
@click.argument("file", type=options.FILE, required=False)
@options.as_json
def check(file: Path | None, as_json: bool) -> None:
    """Validate a policy file, or the built-in policy: every problem at once.

    \b
    Example:
      alignstack policy check policy.yaml
    """
    from alignstack.policy import load

    loaded = load(file)
    facts = {"policy": str(file or "built-in"), "fingerprint": loaded.fingerprint, "hazards": sorted(loaded.hazards)}
    if as_json:
        emit(facts)
        return
    click.echo(f"{facts['policy']} is valid: {len(loaded.hazards)} hazards, fingerprint {loaded.fingerprint[:12]}")


@policy.command()
@click.argument("old", type=options.FILE)
@click.argument("new", type=options.FILE)
@options.as_json
def diff(old: Path, new: Path, as_json: bool) -> None:
    """What changes between two policy files, in the policy's own words.

    \b
    Example:
      alignstack policy diff policy.yaml policy-next.yaml
    """
    from alignstack.policy import load
    from alignstack.policy.diff import diff as differences

    emit(differences(load(old), load(new)))
