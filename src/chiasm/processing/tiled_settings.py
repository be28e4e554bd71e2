"""Published picture settings of the families that tile or pack: what `image_settings` does for them.

`HDTransform` has no published file (its sizes stand in code); it gets a type of our own, which other libraries refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.processing.dynamic_tilers import DynamicTiles, HDTransform, OverlapCrops
from chiasm.processing.native_tilers import NativePack, SmartResize
from chiasm.processing.tilers import Tiler

_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_COMMON: dict[str, Any] = {
    "do_resize": True,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": _MEAN,
    "image_std": _STD,
    "do_pad": None,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "Qwen2VLImageProcessor": _COMMON
    | {
        "size": None,
        "min_pixels": None,
        "max_pixels": None,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    },
    "GotOcr2ImageProcessor": _COMMON
    | {"size": {"height": 384, "width": 384}, "crop_to_patches": False, "min_patches": 1, "max_patches": 12},
    "KimiVLImageProcessor": _COMMON
    | {
        "patch_size": 14,
        "pad_input": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "in_token_limit": 4096,
        "merge_kernel_size": [2, 2],
        "num_pooled_tokens": 1024,
    },
    "MolmoImageProcessor": _COMMON
    | {
        "max_crops": 12,
        "overlap_margins": [4, 4],
        "base_image_input_size": [336, 336],
        "image_token_length_w": 12,
        "image_token_length_h": 12,
        "image_patch_size": 14,
        "image_padding_mask": True,
    },
    "HDTransform": _COMMON | {"size": 336, "max_tiles": 55, "patch_size": 28},
}
TYPES = (SmartResize, NativePack, DynamicTiles, HDTransform, OverlapCrops)


def tiler(kind: str, settings: Mapping[str, Any]) -> Tiler:
    """The tiler that settings of one of `DEFAULTS` describe.

    Raises:
        ConfigError: a combination that isn't built.
    """
    if kind == "Qwen2VLImageProcessor":
        size = {**{"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}, **(settings["size"] or {})}
        low = settings["min_pixels"] or size.get("min_pixels") or size["shortest_edge"]
        high = settings["max_pixels"] or size.get("max_pixels") or size["longest_edge"]
        return SmartResize(min_pixels=low, max_pixels=high, patch=settings["patch_size"], merge=settings["merge_size"])
    if kind == "KimiVLImageProcessor":
        merge = settings["merge_kernel_size"]
        if merge[0] != merge[1] or not settings["pad_input"]:
            raise ConfigError(
                "image_setting_unknown", f"{kind} with merge_kernel_size {merge}, pad_input {settings['pad_input']}"
            )
        return NativePack(max_patches=settings["in_token_limit"], patch=settings["patch_size"], merge=merge[0])
    if kind == "GotOcr2ImageProcessor":
        side = _square(settings["size"])
        return DynamicTiles(side=side, min_tiles=settings["min_patches"], max_tiles=settings["max_patches"])
    if kind == "HDTransform":
        return HDTransform(side=settings["size"], max_tiles=settings["max_tiles"], patch=settings["patch_size"])
    margins, side = settings["overlap_margins"], _square(settings["base_image_input_size"])
    if margins[0] != margins[1]:
        raise ConfigError("image_setting_unknown", f"{kind} with overlap_margins {margins}")
    patch = settings["image_patch_size"]
    pool = side // patch // settings["image_token_length_w"]
    return OverlapCrops(side=side, max_crops=settings["max_crops"], margin=margins[0], patch=patch, pool=pool)


def _square(size: Any) -> int:
    sides = (
        set(size.values()) if isinstance(size, Mapping) else set(size) if isinstance(size, (list, tuple)) else {size}
    )
    if len(sides) != 1:
        raise ConfigError("image_size_unknown", f"tiles of {size} aren't square")
    return int(sides.pop())


def write(tiler: Any) -> dict[str, Any]:
    """The inverse of `tiler`: the settings that belong to it."""
    if isinstance(tiler, SmartResize):
        return {
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {"shortest_edge": tiler.min_pixels, "longest_edge": tiler.max_pixels},
            "patch_size": tiler.patch,
            "temporal_patch_size": 2,
            "merge_size": tiler.merge,
        }
    if isinstance(tiler, NativePack):
        return {
            "image_processor_type": "KimiVLImageProcessor",
            "in_token_limit": tiler.max_patches,
            "patch_size": tiler.patch,
            "merge_kernel_size": [tiler.merge] * 2,
            "pad_input": True,
        }
    if isinstance(tiler, DynamicTiles):
        return {
            "image_processor_type": "GotOcr2ImageProcessor",
            "size": {"height": tiler.side, "width": tiler.side},
            "crop_to_patches": True,
            "min_patches": tiler.min_tiles,
            "max_patches": tiler.max_tiles,
        }
    if isinstance(tiler, HDTransform):
        own = {"size": tiler.side, "max_tiles": tiler.max_tiles, "patch_size": tiler.patch}
        return {"image_processor_type": "HDTransform", **own}
    assert isinstance(tiler, OverlapCrops)
    base = tiler.side // (tiler.patch * tiler.pool)
    return {
        "image_processor_type": "MolmoImageProcessor",
        "max_crops": tiler.max_crops,
        "overlap_margins": [tiler.margin] * 2,
        "base_image_input_size": [tiler.side] * 2,
        "image_token_length_w": base,
        "image_token_length_h": base,
        "image_patch_size": tiler.patch,
        "image_padding_mask": True,
    }
