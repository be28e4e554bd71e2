"""A processor's own file, `processor_config.json`, as transformers 5 reads it, beside the tokenizer's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from chiasm.processing.processor import Pictures


def counting(image_processor: Any) -> dict[str, Any]:
    """How transformers' LLaVA processors count a picture's tokens: patches, plus 1, less 1 under "default"."""
    tiler = getattr(image_processor, "tiler", None)
    patch, extra = getattr(tiler, "patch", None), getattr(tiler, "extra", 0)
    if patch is None or extra not in (0, 1):
        return {}
    strategy = "full" if extra else "default"
    return {"patch_size": patch, "num_additional_image_tokens": 1, "vision_feature_select_strategy": strategy}


def save_parts(
    folder: str | Path, tokenizer: Tokenizer, image_processor: Pictures | None, settings: Mapping[str, Any]
) -> None:
    """Write processor_config.json, the picture settings nested in it, and the tokenizer's files.

    Args:
        folder: an existing folder.
        tokenizer: the text side.
        image_processor: the picture side, with `to_config() -> dict`; None for none.
        settings: the other entries, such as `processor_class`, without which transformers can't tell what to load.
    """
    config = dict(settings)
    if image_processor is not None:
        config["image_processor"] = image_processor.to_config()
    extra = {"processor_class": config["processor_class"]} if "processor_class" in config else {}
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (Path(folder) / "processor_config.json").write_text(text, encoding="utf-8")
    tokenizer.save(folder, extra=extra)
