"""`chiasm new`: a random-weight miniature with a working processor and tokenizer."""

from __future__ import annotations

from pathlib import Path

from chiasm.cli.options import OUTPUT, Output
from chiasm.cli.output import UsageError, emit, say


def new(
    family: str | None = None,
    /,
    *,
    out: Path,
    like: Path | None = None,
    tiny: bool = False,
    options: Output = OUTPUT,
) -> None:
    """Write a random miniature of a family, or of a checkpoint folder: chiasm new llava --tiny --out tiny-llava.

    Args:
        family: A family's name; see chiasm models.
        out: Folder to write, in the family's published layout.
        like: A checkpoint folder to take the family and the settings from.
        tiny: Small enough that every other verb runs in seconds.
    """
    if (family is None) == (like is None):
        raise UsageError("give either a family or --like FOLDER", hint="chiasm new clip --tiny --out tiny-clip")
    if not tiny:
        raise UsageError("only miniatures can be made new here", hint="add --tiny")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} is there already and not an empty folder")
    import chiasm
    from chiasm.core.registry import family as find_family

    source = str(like) if like else find_family(str(family)).name
    model = chiasm.new(source, tiny=True)
    model.save(out)
    parameters = sum(weight.numel() for weight in model.module.parameters())
    if options.json:
        emit({"out": str(out), "family": family, "like": str(like) if like else None, "parameters": parameters})
        return
    say(f"{out}: {parameters:,} parameters")
