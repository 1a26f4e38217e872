"""`alignstack policy check|diff|import-principles`."""

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


@policy.command("import-principles")
@click.argument("file", type=options.FILE)
@options.option("--out", type=click.Path(path_type=Path), metavar="POLICY", help="Write the policy to this new file.")
@options.as_json
def import_principles(file: Path, out: Path | None, as_json: bool) -> None:
    """A policy file with the principles of a published constitution, all else built-in.

    Reads the JSON files beside "Constitutional AI" (Bai et al. 2022): critique and revision requests by name, or a list
    of instructions for comparing answers.

    \b
    Example:
      alignstack policy import-principles CritiqueRevisionInstructions.json --out policy.yaml
    """
    from alignstack.policy import principles

    found = principles.read(file)
    made = principles.as_yaml(found, file.stem)
    if out is not None:
        _write_new(out, made)
    if as_json:
        emit({"policy": str(out) if out else None, "principles": [one.model_dump(exclude_none=True) for one in found]})
    elif out is not None:
        click.echo(printable(f"{len(found)} principles in {out}; see that their licence lets you use them"))
    else:
        click.echo(printable(made), nl=False)


def _write_new(out: Path, text: str) -> None:
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.UsageError(f"{str(out)!r} exists already; name a new file") from None
    except OSError as error:
        raise click.UsageError(f"{str(out)!r} cannot be written: {error.strerror}") from None
