"""`alignstack policy check|diff`."""

from dataclasses import asdict
from pathlib import Path

import click

from alignstack.cli import options
from alignstack.cli.console import emit, printable


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
    """Validate a policy file, or the built-in policy: every problem at once, then what is legal but doubtful.

    \b
    Example:
      alignstack policy check policy.yaml
    """
    from alignstack import policy

    name = str(file or "built-in policy")
    loaded = policy.load(file)
    doubts = policy.check(loaded, name)
    if as_json:
        emit({
            "policy": name, "version": loaded.version, "fingerprint": loaded.fingerprint,
            "hazards": list(loaded.hazards), "principles": len(loaded.principles),
            "doubts": [asdict(doubt) for doubt in doubts],
        })  # fmt: skip
        return
    click.echo(f"{name}: valid; {len(loaded.hazards)} hazards, {len(loaded.principles)} principles")
    click.echo(f"fingerprint {loaded.fingerprint}")
    for doubt in doubts:
        click.echo(printable(f"doubtful: {doubt}"))


@policy.command()
@click.argument("old", type=options.FILE)
@click.argument("new", type=options.FILE)
@options.as_json
def diff(old: Path, new: Path, as_json: bool) -> None:
    """What changes between two policy files, path by path.

    \b
    Example:
      alignstack policy diff policy.yaml policy-next.yaml
    """
    from alignstack import policy

    changes = policy.diff(policy.load(old), policy.load(new))
    if as_json:
        emit([asdict(change) for change in changes])
        return
    for change in changes:
        click.echo(printable(str(change)))
    if not changes:
        click.echo("no difference")
