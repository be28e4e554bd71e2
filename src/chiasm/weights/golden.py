"""Golden vectors: a checkpoint's own numbers, written beside it once, so that anyone can prove a copy of it.

`write_golden` runs a model on pictures and texts that are computed, not stored (integer arithmetic, the same on
every machine), and keeps pixels, features and logits. `check_golden` runs them again, and also proves that every
stored tensor is used exactly once and that a batch gives what its members give alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from chiasm.core.batch import Batch
from chiasm.core.errors import CheckpointError, ChiasmError
from chiasm.weights.checkpoint import open_checkpoint, read_config, save_state
from chiasm.weights.files import read_json, write_json
from chiasm.weights.layouts import layout_for, native
from chiasm.weights.meta import shapes_of

STEM = "chiasm_golden"
TEXTS = ("a red apple on a table", "two dogs", "the sea at night, seen from a boat")
QUESTION = "What is in the picture?"
# Largest difference relative to the largest value: the same kernels on another machine; lower precision.
EXACT, REDUCED = 1e-4, 5e-2
PIXELS = 1e-5
# Most values kept of one tensor; longer ones are thinned evenly, so that the file stays small beside any model
KEPT = 2**16


@dataclass(frozen=True, slots=True)
class Check:
    """One thing proved or not: its largest difference and what was allowed, where it is a comparison."""

    name: str
    passed: bool
    detail: str
    worst: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """What `check_golden` found; `tensors` are stored in the folder, `used` of them fill the model."""

    folder: str
    tensors: int
    used: int
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is proved."""
        return all(check.passed for check in self.checks)


def synthetic_pictures() -> list[Image.Image]:
    """Four pictures of odd sizes, the same bytes everywhere: ramps, stripes, blocks and a disc."""
    pictures = []
    for number, (width, height) in enumerate(((97, 61), (40, 120), (224, 224), (33, 35))):
        y, x = np.mgrid[0:height, 0:width]
        red = (x * 255 // width + 40 * number) % 256
        green = ((x * (3 + number)) ^ (y * (5 + 2 * number))) % 256
        disc = (2 * x - width) ** 2 + (2 * y - height) ** 2 < min(width, height) ** 2
        blue = np.where(disc, 230 - 50 * number, (y * 255 // height) % 256)
        pictures.append(Image.fromarray(np.stack((red, green, blue), -1).astype(np.uint8)))
    return pictures


def write_golden(model: Any, folder: Path | str) -> list[Path]:
    """Write a model's golden vectors beside its checkpoint.

    Args:
        model: loaded from `folder`.
        folder: the checkpoint.

    Returns:
        The files written: ``chiasm_golden.safetensors`` and ``chiasm_golden.json``.
    """
    folder = Path(folder)
    vectors, _ = _run(model)
    written = save_state(folder, vectors, stem=STEM)
    about = {
        "version": 1,
        "family": model.family.name,
        "dtype": _dtype(model),
        "texts": list(TEXTS),
        "question": QUESTION,
    }
    write_json(folder / f"{STEM}.json", about | {"torch": torch.__version__})
    return [*written, folder / f"{STEM}.json"]


def check_golden(model: Any, folder: Path | str) -> GoldenReport:
    """Prove a checkpoint.

    Args:
        model: loaded from `folder`.
        folder: the checkpoint, with golden vectors beside it.

    Returns:
        The report; a folder without golden vectors fails that one check.

    Raises:
        CheckpointError: the weights don't fill the model exactly, or the golden files are damaged.
    """
    folder = Path(folder)
    tensors, used = _count(model, folder)
    vectors, alone = _run(model)
    checks = [
        Check("tensors", True, f"{tensors} stored, each used once or known to be unneeded; {used} fill the model")
    ]
    checks += _against_stored(model, folder, vectors)
    limit = EXACT if _dtype(model) == "float32" else REDUCED
    checks += [_compare(f"batch = single: {name}", vectors[name], alone[name], limit) for name in sorted(alone)]
    return GoldenReport(str(folder), tensors, used, tuple(checks))


def run_vectors(model: Any) -> dict[str, torch.Tensor]:
    """What a model makes of the computed pictures and texts: ids, pixels, features or embeddings, logits."""
    return _run(model)[0]


def _against_stored(model: Any, folder: Path, vectors: Mapping[str, torch.Tensor]) -> list[Check]:
    try:
        about = read_json(folder / f"{STEM}.json")
        stored = open_checkpoint(folder / f"{STEM}.safetensors")
    except FileNotFoundError:
        stored = None
    except ChiasmError as error:
        if error.code != "config_missing":
            raise
        stored = None
    if stored is None:
        return [Check("golden vectors", False, f"none stored beside it; chiasm verify {folder} --write")]
    if set(stored) != set(vectors):
        return [
            Check("golden vectors", False, f"{len(stored)} stored, {len(vectors)} expected of a {model.family.name}")
        ]
    same = about.get("dtype") == _dtype(model) == "float32"
    checks = []
    for name in sorted(vectors, key=_order):
        limit = 0.0 if name.startswith("ids") else PIXELS if name == "pixels" else EXACT if same else REDUCED
        checks.append(_compare(name, vectors[name], stored[name], limit))
    return checks


def _order(name: str) -> tuple[int, str]:
    return next((i for i, kind in enumerate(("ids", "pixels", "features", "embeds")) if name.startswith(kind)), 9), name


def _compare(name: str, given: torch.Tensor, expected: torch.Tensor, limit: float) -> Check:
    if given.shape != expected.shape:
        return Check(name, False, f"shape {tuple(given.shape)}, expected {tuple(expected.shape)}")
    given, expected = given.double(), expected.double()
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    worst = (given - expected).abs().max().item() / scale if expected.numel() else 0.0
    passed = worst <= limit  # a NaN compares false
    return Check(name, passed, f"largest difference {worst:.2e} of the range, limit {limit:.0e}", worst, limit)


def _count(model: Any, folder: Path) -> tuple[int, int]:
    description = read_config(folder)
    checkpoint = open_checkpoint(folder)
    shapes = shapes_of(model.module)
    if "frozen" in description:  # a bundle: the loader itself proved trained, frozen and low-rank parts
        return len(checkpoint), len(shapes)
    own = description.get("model_type") == "chiasm"
    layout = native.layout(description.get("family")) if own else layout_for(description)
    steps = layout.table(model.config).check(checkpoint.shapes, shapes, str(folder))
    return len(checkpoint), sum(len(step.targets) for step in steps)


def _dtype(model: Any) -> str:
    return str(next(model.module.parameters()).dtype).removeprefix("torch.")


def _kept(tensor: torch.Tensor | None) -> torch.Tensor:
    """A flat float32 copy, thinned by an even stride where it is long (an odd one, so that columns take turns)."""
    assert tensor is not None
    step = -(-tensor.numel() // KEPT) | 1
    return tensor.flatten()[::step].float().cpu().clone()


@torch.inference_mode()
def _run(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The vectors of the whole batch, and of its members one at a time where that must make no difference."""
    if "embed" in model.capabilities:
        return _run_dual(model)
    if "generate" in model.capabilities:
        return _run_generative(model)
    raise CheckpointError("golden_unknown", f"no golden vectors are defined for the family {model.family.name}")


def _run_dual(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    module, processor, pictures = model.module, model.processor, synthetic_pictures()
    seen, read = (
        processor.images(pictures).to(model.device),
        processor.texts(list(TEXTS), truncate=True).to(model.device),
    )
    dtype = next(module.parameters()).dtype
    images = module.embed_images(seen.pixel_values.to(dtype))
    texts = module.embed_texts(read.input_ids, read.attention_mask)
    vectors = {"ids": _kept(read.input_ids), "pixels": _kept(seen.pixel_values), "embeds_images": _kept(images)}
    vectors |= {"embeds_texts": _kept(texts), "logits": _kept(module.logits(images, texts))}
    one = [processor.images([picture]).pixel_values.to(model.device, dtype) for picture in pictures]
    alone = {"embeds_images": _kept(torch.cat([module.embed_images(pixels) for pixels in one]))}
    said = [processor.texts([text], truncate=True).to(model.device) for text in TEXTS]
    rows = [module.embed_texts(batch.input_ids, batch.attention_mask) for batch in said]
    return vectors, alone | {"embeds_texts": _kept(torch.cat(rows))}


def _run_generative(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    module, pictures = model.module, synthetic_pictures()

    def ask(text: str, *images: Image.Image) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]

    conversations = [ask(QUESTION, picture) for picture in pictures] + [ask(TEXTS[0])]

    def prepare(chosen: list[Any]) -> Batch:
        return model.processor(chosen).to(model.device)

    batch = prepare(conversations)

    def last(item: Batch) -> torch.Tensor:
        assert item.input_ids is not None
        return module.prefill(item, item.input_ids.shape[1] + 1)[0]

    features = torch.cat(module.encode_images(batch.pixel_values, list(batch.plans)))
    vectors = {
        "ids": _kept(batch.input_ids),
        "pixels": _kept(batch.pixel_values),
        "features": _kept(features),
        "logits": _kept(last(batch)),
    }
    return vectors, {"logits": _kept(torch.cat([last(prepare([item])) for item in conversations]))}
