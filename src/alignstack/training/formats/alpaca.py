"""Alpaca (Taori et al. 2023): `instruction`, `input` (may be empty or missing), `output`."""

from alignstack.training.formats.example import Example, Kind, Raw, Skip, Wrong, known, need, short, text, user

KEYS = ("instruction", "input", "output")


def matches(row: Raw) -> bool:
    return {"instruction", "output"} <= set(row)


def examples(row: Raw, kind: Kind) -> list[Example]:
    """The input stands under the instruction, an empty line between."""
    instruction, given, output = text(need(row, "instruction"), "instruction"), row.get("input"), need(row, "output")
    if given is not None and not isinstance(given, str):
        raise Wrong(f"'input' must be a text, not {short(given)}")
    if output == "":
        raise Skip("an empty turn")  # the published set has some
    request = (
        f"{instruction.strip()}\n\n{text(given, 'input').strip()}" if given and given.strip() else instruction.strip()
    )
    return [Example(prompt=user(request), good=text(output, "output").strip(), **known(row))]
