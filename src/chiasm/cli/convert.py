"""`chiasm convert`: pickled weights to safetensors, in a process of their own."""

from __future__ import annotations

from pathlib import Path

from chiasm.cli.options import OUTPUT, Output
from chiasm.cli.output import emit, note, say


def convert(source: Path, /, *, out: Path, options: Output = OUTPUT) -> None:
    """Turn a pickled checkpoint (.bin, .pt, .pth) into a safetensors folder: chiasm convert FILE --out FOLDER.

    Args:
        source: A pickled file, or a folder that holds one.
        out: Folder to write.
    """
    from chiasm.weights.convert import convert as convert_weights

    report = convert_weights(source, out)
    for name, kind in report.skipped.items():
        note(f"left out {name}: a {kind}, not a tensor")
    if options.json:
        emit({"out": str(out), **{name: getattr(report, name) for name in report.__dataclass_fields__}})
        return
    say(f"{out}: {report.tensors:,} tensors, {report.bytes / 2**20:.1f} MiB")
