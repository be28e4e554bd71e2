"""Export: a model in a form that other programs load, proved by loading it again before it is announced.

`to_hf` writes the published layout that `transformers` has a class for, which is also what vLLM reads; `to_gguf` writes
llama.cpp's two files. Either is written beside its place, loaded from there, compared with the model on computed
pictures (`weights.golden`), and only then moved to where it was asked for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.core.files import sync
from chiasm.weights.files import read_json
from chiasm.weights.gguf_export import KINDS, check_exportable, read_back, write_gguf
from chiasm.weights.golden import run_vectors
from chiasm.weights.load import load

# What `transformers` has a class for: the classes that a written config names, by its ``model_type``. Its own releases
# aren't alone in using these types: InternVL-G's folders say ``internvl`` too, and there that would be another model.
IN_TRANSFORMERS = {
    "align": ("AlignModel",),
    "blip": ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"),
    "blip-2": ("Blip2ForConditionalGeneration", "Blip2ForImageTextRetrieval"),
    "clip": ("CLIPModel",),
    "idefics": ("IdeficsForVisionText2Text",),
    "instructblip": ("InstructBlipForConditionalGeneration",),
    "internvl": ("InternVLForConditionalGeneration",),
    "kosmos-2": ("Kosmos2ForConditionalGeneration",),
    "llava": ("LlavaForConditionalGeneration",),
    "llava_next": ("LlavaNextForConditionalGeneration",),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration",),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration",),
    "siglip": ("SiglipModel",),
    "vilt": (
        "ViltForQuestionAnswering", "ViltForImageAndTextRetrieval", "ViltForImagesAndTextClassification",
        "ViltForMaskedLM", "ViltForTokenClassification",
    ),
}  # fmt: skip
# What vLLM serves of these, by the class that a config names.
IN_VLLM = (
    "Blip2ForConditionalGeneration", "CLIPModel", "InternVLForConditionalGeneration", "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration", "Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration",
    "SiglipModel",
)  # fmt: skip
FILES = ("config.json", "tokenizer_config.json")
PICTURES = ("preprocessor_config.json", "processor_config.json")
# Largest difference of logits, relative to the largest one, by what weights were rounded to.
LIMITS = {"full": 1e-4, "f32": 1e-3, "f16": 2e-2, "q8_0": 8e-2}


@dataclass(frozen=True, slots=True)
class Export:
    """What was written.

    Attributes:
        files: names inside the folder.
        worst: the largest difference between the model's numbers and those of what was read back, of the range.
        limit: what was allowed.
        vllm: whether vLLM has a class for it; None where that isn't asked.
    """

    files: tuple[str, ...]
    worst: float
    limit: float
    vllm: bool | None = None


def to_hf(model: Any, folder: Path) -> Export:
    """Write a folder that `transformers` loads.

    Args:
        model: in full precision.
        folder: created; must not exist with files in it.

    Returns:
        What was written.

    Raises:
        ConfigError: `transformers` has no class for the family or this variant of it.
        CheckpointError: what was written gives other numbers, or the folder isn't empty.
    """

    def write(place: Path) -> None:
        model.save(place / "m")
        for path in sorted((place / "m").iterdir()):
            path.rename(place / path.name)
        (place / "m").rmdir()
        check_hf(place, model)

    def again(place: Path) -> Any:
        return load(place, device=str(model.device), dtype=next(model.module.parameters()).dtype, offline=True)

    vllm = False

    def prove(place: Path) -> Any:
        nonlocal vllm
        vllm = any(name in IN_VLLM for name in read_json(place / "config.json").get("architectures", ()))
        return again(place)

    files, worst = _proved(model, folder, write, prove, LIMITS["full"])
    return Export(files, worst, LIMITS["full"], vllm)


def check_hf(folder: Path, model: Any) -> None:
    """Refuse a written folder that `transformers` has no class for, or that lacks a file it needs.

    Raises:
        ConfigError: no class.
        CheckpointError: no such file.
    """
    description = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    kind = description.get("model_type")
    named = (description.get("architectures") or [None])[0]
    if named not in IN_TRANSFORMERS.get(str(kind), ()):
        what = (
            f"{model.name} is written as {kind!r} {named!r}; transformers has classes for {', '.join(IN_TRANSFORMERS)}"
        )
        raise ConfigError("export_layout", what, hint="Model.save writes the family's own layout")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in PICTURES):
        missing.append(" or ".join(PICTURES))
    if missing:
        raise CheckpointError("export_incomplete", f"the written folder lacks {', '.join(missing)}")


def to_gguf(model: Any, folder: Path, kind: str) -> Export:
    """Write llama.cpp's two files of a LLaVA-shaped model.

    Args:
        model: in full precision.
        folder: created; must not exist with files in it.
        kind: ``f32``, ``f16`` or ``q8_0``.

    Returns:
        What was written.

    Raises:
        ConfigError: an unknown kind; a family, variant or tokenizer that GGUF can't say.
        CheckpointError: what was written gives other numbers, or the folder isn't empty.
    """
    if kind not in KINDS:
        raise ConfigError("export_kind", f"{kind!r} is not one of {', '.join(KINDS)}")
    check_exportable(model)
    names: list[str] = []

    def write(place: Path) -> None:
        names.extend(path.name for path in write_gguf(model, place, kind))

    def again(place: Path) -> Any:
        other = type(model)(
            read_back(place / names[0], place / names[1]), model.processor, model.family, model.config, name=model.name
        )
        return other

    files, worst = _proved(model, folder, write, again, LIMITS[kind])
    return Export(files, worst, LIMITS[kind])


def _proved(
    model: Any, folder: Path, write: Callable[[Path], None], again: Callable[[Path], Any], limit: float
) -> tuple[tuple[str, ...], float]:
    if model.quantized is not None:
        what = f"{model.name} was loaded with quantize={model.quantized!r}; an export begins with full precision"
        raise CheckpointError("quantized_save", what, hint="load it without quantize")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError("folder_not_empty", f"{folder} is there already and not an empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        write(building)
        worst = _difference(run_vectors(model), run_vectors(again(building)))
        if not worst <= limit:  # a NaN isn't
            what = f"what was written gives numbers that differ by {worst:.1e} of their range, limit {limit:.0e}"
            raise CheckpointError("export_differs", what)
        files = tuple(sorted(path.name for path in building.iterdir()))
        building.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        building.rename(folder)
        sync(folder.parent)
        return files, worst
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _difference(given: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of logits or embeddings, of the largest number; ids and pixels don't come from weights."""
    names = [name for name in given if name.startswith(("logits", "embeds", "features"))]
    pairs = [(given[name].double(), other[name].double()) for name in names]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs)
