"""`chiasm export`: a model for other programs, as a folder of `transformers` and vLLM or as llama.cpp's two files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import UsageError, emit, note, say


def export(
    model: str,
    /,
    *,
    to: Literal["hf", "gguf"],
    out: Path,
    type: Literal["f32", "f16", "q8_0"] | None = None,
    options: Loading = LOADING,
) -> None:
    """Write a model for other programs and prove it by loading it again: chiasm export MODEL --to gguf --out FOLDER.

    Args:
        model: A bundled name, a folder, or a hub id.
        to: hf: a folder that transformers and vLLM load. gguf: llama.cpp's two files, of LLaVA-shaped models.
        out: Folder to write.
        type: Numbers of the GGUF files: f32, f16 (as if not given) or q8_0.
    """
    if type is not None and to != "gguf":
        raise UsageError(f"--type {type} belongs to --to gguf")
    if options.quantize is not None:
        raise UsageError("an export begins with full precision; --quantize has no place here", hint="--type q8_0")
    from chiasm.weights.export import to_gguf, to_hf

    loaded = options.load(model)
    done = to_hf(loaded, out) if to == "hf" else to_gguf(loaded, out, type or "f16")
    if options.json:
        report = {name: getattr(done, name) for name in done.__dataclass_fields__}
        emit({"out": str(out), "to": to, **report})
        return
    for name in done.files:
        say(f"{out / name}")
    note(f"loaded again: logits differ by {done.worst:.1e} of their range, limit {done.limit:.0e}")
    if done.vllm is not None:
        note("vLLM has a class for it" if done.vllm else "vLLM has no class for it")
