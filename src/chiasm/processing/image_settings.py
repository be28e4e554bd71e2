"""Published picture settings: the files of the `transformers` and `open_clip` layouts, in both directions.

`preprocessor_config.json` holds the settings flat; `processor_config.json` (transformers 5) nests them under
``image_processor``. A missing setting has its class's default; a null one is off, as in the reference. A setting
that isn't known here and isn't false or null is refused: it may change pixels.

Two settings are read and need nothing done. ``do_convert_rgb``: pictures are always RGB here; without it the
reference either does the same or fails. LLaVA-NeXT's ``do_pad``: it pads the number of crops in a batch, and here
crops of all pictures stand in one row. The torchvision ("Fast") variants of a class are read as the class:
Pillow is the reference for scaling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import ConfigError
from chiasm.processing import tiled_settings
from chiasm.processing.min_max_edge import MinMaxEdge
from chiasm.processing.tilers import AnyRes, CenterCrop, PadSquare, Stretch, Tiler

if TYPE_CHECKING:
    from chiasm.processing.image_processor import ImageProcessor

_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_COMMON: dict[str, Any] = {
    "do_resize": True,
    "resample": 3,
    "do_center_crop": False,
    "crop_size": None,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_pad": False,
    "default_to_square": False,
}
_CLIP = _COMMON | {
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "image_mean": _MEAN,
    "image_std": _STD,
}
_SIGLIP = _COMMON | {"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_BLIP = _COMMON | {"size": {"height": 384, "width": 384}, "image_mean": _MEAN, "image_std": _STD}
_VILT = _COMMON | {
    "size": {"shortest_edge": 384},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "do_pad": True,
    "size_divisor": 32,
}
# `include_top` divides by the deviation once more; the ALIGN checkpoint switches it off.
_EFFICIENT = _COMMON | {
    "size": {"height": 346, "width": 346},
    "crop_size": {"height": 289, "width": 289},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "rescale_offset": False,
    "include_top": True,
}
_NEXT = _CLIP | {
    "do_pad": True,
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}
# Our own, for padding that no published class does; other libraries refuse the name rather than pad otherwise.
_PAD = _CLIP | {"do_pad": True, "fill": [255, 255, 255]}
DEFAULTS = {
    "CLIPImageProcessor": _CLIP,
    "SiglipImageProcessor": _SIGLIP,
    "BlipImageProcessor": _BLIP,
    "ViltImageProcessor": _VILT,
    "EfficientNetImageProcessor": _EFFICIENT,
    "LlavaImageProcessor": _CLIP,
    "LlavaNextImageProcessor": _NEXT,
    "PadSquare": _PAD,
    **tiled_settings.DEFAULTS,
}
# What says nothing about pixels. `auto_map` names code inside the checkpoint: it is never run.
_SILENT = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "auto_map",
    "do_convert_rgb",
    "return_tensors",
    "input_data_format",
    "device",
    "disable_grouping",
    "_valid_processor_keys",
    "backend",
}
_ONLY = {"data_format": "channels_first", "aspect_ratio_setting": "anyres"}
_INTERPOLATION = {"nearest": 0, "bilinear": 2, "bicubic": 3}


def read(
    config: Mapping[str, Any],
    *,
    patch: int | None = None,
    extra: int = 0,
    pinpoints: Sequence[Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Published settings as the arguments of `ImageProcessor`; see `ImageProcessor.from_config`."""
    if "preprocess_cfg" in config:
        return _read_open_clip(config["preprocess_cfg"], patch, extra)
    flat = config.get("image_processor") or config
    kind = _kind(flat if flat.get("image_processor_type") or flat.get("feature_extractor_type") else config)
    settings = _squared(DEFAULTS[kind] | dict(flat))
    _refuse_unknown(settings, DEFAULTS[kind], kind)
    rescale, normalize = settings["do_rescale"], settings["do_normalize"]
    if kind == "EfficientNetImageProcessor":
        settings, normalize = _plain(settings), True
    return {
        "tiler": _tiler(kind, settings, pinpoints, {"patch": patch, "extra": extra}),
        "resample": _resample(settings["resample"]),
        "rescale_factor": _number(settings["rescale_factor"], "rescale_factor") if rescale else 1.0,
        "mean": _channels(settings["image_mean"], "image_mean") if normalize else (0.0, 0.0, 0.0),
        "std": _channels(settings["image_std"], "image_std") if normalize else (1.0, 1.0, 1.0),
    }


def write(processor: ImageProcessor) -> dict[str, Any]:
    """Settings that transformers 5 or open_clip read back; see `ImageProcessor.to_config`."""
    if processor.background is None:  # only open_clip drops alpha
        return {"preprocess_cfg": _write_open_clip(processor)}
    if processor.background != (255, 255, 255):
        raise _inexpressible(f"a background of {processor.background}", "(255, 255, 255)")
    tiler = processor.tiler
    settings: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": processor.resample,
        "do_rescale": True,
        "rescale_factor": processor.rescale_factor,
        "do_normalize": True,
        "image_mean": list(processor.mean),
        "image_std": list(processor.std),
    }
    if isinstance(tiler, tiled_settings.TYPES):
        return settings | tiled_settings.write(tiler)
    if isinstance(tiler, MinMaxEdge):
        size = {"size": {"shortest_edge": tiler.shorter}, "size_divisor": tiler.divisor, "do_pad": True}
        return settings | size | {"image_processor_type": "ViltImageProcessor"}
    if isinstance(tiler, Stretch):
        return settings | {"image_processor_type": "SiglipImageProcessor", "size": _dict(tiler.size)}
    if isinstance(tiler, (PadSquare, AnyRes)):
        square = {"size": {"shortest_edge": tiler.side}, "do_center_crop": True, "crop_size": _dict((tiler.side,) * 2)}
        settings |= square | {"do_pad": True}
        if isinstance(tiler, AnyRes):
            canvases = [list(pinpoint) for pinpoint in tiler.pinpoints]
            return settings | {"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": canvases}
        if tiler.fill != _fill(processor.mean):
            return settings | {"image_processor_type": "PadSquare", "fill": list(tiler.fill)}
        return settings | {"image_processor_type": "LlavaImageProcessor"}
    if not isinstance(tiler, CenterCrop):
        raise _inexpressible(f"a {type(tiler).__name__}", "one of the published tilers")
    if tiler.half_even:
        raise _inexpressible("a crop whose odd margins are rounded to even", "margins rounded down")
    settings |= {"image_processor_type": "CLIPImageProcessor", "do_center_crop": tiler.crop is not None}
    if tiler.resize is None:
        settings["do_resize"] = False
    else:
        edge = {"shortest_edge": tiler.resize} if isinstance(tiler.resize, int) else _dict(tiler.resize)
        settings["size"] = edge
    return settings | ({"crop_size": _dict(tiler.crop)} if tiler.crop else {})


# --- reading --------------------------------------------------------------------------------------------------


def _kind(config: Mapping[str, Any]) -> str:
    named = config.get("image_processor_type") or config.get("feature_extractor_type")
    if not named:
        raise ConfigError(
            "image_processor_untyped",
            "the picture settings have neither image_processor_type nor feature_extractor_type",
        )
    kind = str(named).removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if kind not in DEFAULTS:
        raise ConfigError(
            "image_processor_unknown",
            f"no picture settings of type {named!r} are known; known are {', '.join(DEFAULTS)}",
        )
    return kind


def _squared(settings: dict[str, Any]) -> dict[str, Any]:
    """Kosmos-2's first files name a shortest edge and mean a square."""
    if not settings.pop("use_square_size", False):
        return settings
    size = settings["size"]
    side = size.get("shortest_edge") if isinstance(size, Mapping) else size
    return settings if side is None else settings | {"size": {"height": side, "width": side}}


def _refuse_unknown(settings: Mapping[str, Any], known: Mapping[str, Any], kind: str) -> None:
    for key, value in settings.items():
        if key in known or key in _SILENT or not value or _ONLY.get(key) == value:
            continue
        raise ConfigError(
            "image_setting_unknown",
            f"{kind} has the setting {key} = {value!r}, which isn't implemented and may change pixels",
        )


def _tiler(
    kind: str, settings: Mapping[str, Any], pinpoints: Sequence[Sequence[int]] | None, tokens: Mapping[str, Any]
) -> Tiler:
    if (kind in tiled_settings.DEFAULTS or kind == "LlavaNextImageProcessor") and not settings["do_resize"]:
        raise ConfigError("image_setting_unknown", f"{kind} without do_resize")
    if kind in tiled_settings.DEFAULTS:
        return tiled_settings.tiler(kind, settings)
    resize = _resize(settings) if settings["do_resize"] else None
    crop = _pair(settings["crop_size"], "crop_size") if settings["do_center_crop"] else None
    if kind == "LlavaNextImageProcessor":
        side = _one_side(kind, _resize(settings), _pair(settings["crop_size"], "crop_size"))
        canvases = tuple(_pinpoint(pair) for pair in settings["image_grid_pinpoints"])
        if pinpoints is not None and canvases != tuple(_pinpoint(pair) for pair in pinpoints):
            raise ConfigError(
                "pinpoints_differ",
                f"the settings name {len(canvases)} canvases {canvases}, the model {len(pinpoints)}: {pinpoints}",
            )
        return AnyRes(side=side, pinpoints=canvases, **tokens)
    if kind == "ViltImageProcessor":
        return _min_max_edge(settings, tokens)
    if settings["do_pad"]:
        if kind not in ("LlavaImageProcessor", "PadSquare") or resize is None:
            raise ConfigError("image_setting_unknown", f"{kind} with do_pad and do_resize = {resize is not None}")
        fill = _colour(settings["fill"]) if kind == "PadSquare" else _fill(settings["image_mean"])
        return PadSquare(side=_one_side(kind, resize, crop), fill=fill, **tokens)
    if isinstance(resize, tuple) and crop in (None, resize):
        return Stretch(size=resize, **tokens)
    return CenterCrop(resize=resize, crop=crop, **tokens)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """EfficientNet's further steps as mean and deviation: x·factor − 1 first, a second division last."""
    mean, own = (_channels(settings[name], name) for name in ("image_mean", "image_std"))
    std = own
    if not settings["do_normalize"]:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings["rescale_offset"] and settings["do_rescale"]:
        mean = (mean[0] + 1, mean[1] + 1, mean[2] + 1)
    if settings["include_top"]:
        std = (std[0] * own[0], std[1] * own[1], std[2] * own[2])
    return {**settings, "image_mean": list(mean), "image_std": list(std), "do_normalize": True}


def _min_max_edge(settings: Mapping[str, Any], tokens: Mapping[str, Any]) -> Tiler:
    if not settings["do_resize"] or settings["do_center_crop"] or not settings["do_pad"]:
        raise ConfigError("image_setting_unknown", "ViltImageProcessor without do_resize or do_pad, or with a crop")
    shorter = _resize(settings)
    if not isinstance(shorter, int):
        raise ConfigError("image_size_unknown", f"ViltImageProcessor needs a shortest edge, got {settings['size']!r}")
    longer = int(1333 / 800 * shorter)  # the ratio that detectors trained on COCO made common
    return MinMaxEdge(shorter=shorter, longer=longer, divisor=int(settings["size_divisor"]), **tokens)


def _resize(settings: Mapping[str, Any]) -> int | tuple[int, int]:
    size = settings["size"]
    if isinstance(size, int) and not settings["default_to_square"]:
        return size
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"])
    return _pair(size, "size")


def _pair(size: Any, name: str) -> tuple[int, int]:
    """(width, height) of an integer, a (height, width) list or a mapping."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[1]), int(size[0])
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return int(size["width"]), int(size["height"])
    raise ConfigError("image_size_unknown", f"{name} = {size!r} is neither a height and width nor a shortest edge")


def _one_side(kind: str, resize: int | tuple[int, int], crop: tuple[int, int] | None) -> int:
    sides = {resize} if isinstance(resize, int) else set(resize)
    sides |= set(crop or ())
    if len(sides) != 1:
        raise ConfigError("image_size_unknown", f"{kind} needs one side for size and crop_size, got {sorted(sides)}")
    return sides.pop()


def _pinpoint(pair: Sequence[int]) -> tuple[int, int]:
    height, width = pair
    return int(height), int(width)


def _channels(value: Any, name: str) -> tuple[float, float, float]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * 3
    if len(values) != 3:
        raise ConfigError("image_channels", f"{name} has {len(values)} values for 3 channels")
    red, green, blue = (_number(channel, name) for channel in values)
    return red, green, blue


def _number(value: Any, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ConfigError("image_setting_unknown", f"{name} = {value!r} is not a number")
    return float(value)


def _resample(value: Any) -> int:
    if value not in range(6):
        raise ConfigError("image_setting_unknown", f"resample = {value!r} is none of Pillow's filters 0 to 5")
    return int(value)


def _colour(value: Any) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in _channels(value, "fill"))
    return red, green, blue


def _fill(mean: Any) -> tuple[int, int, int]:
    red, green, blue = (int(level * 255) for level in _channels(mean, "image_mean"))
    return red, green, blue


def _read_open_clip(config: Mapping[str, Any], patch: int | None, extra: int) -> dict[str, Any]:
    """open_clip's `preprocess_cfg`: torchvision's rounding, and alpha dropped as its `convert("RGB")` does."""
    size = _pair(config.get("size", 224), "size")
    mode, filter_name = config.get("resize_mode", "shortest"), config.get("interpolation", "bicubic")
    if mode == "shortest" and size[0] == size[1]:
        tiler: Tiler = CenterCrop(resize=size[0], crop=size, half_even=True, patch=patch, extra=extra)
    elif mode == "squash":
        tiler = Stretch(size=size, patch=patch, extra=extra)
    else:
        raise ConfigError(
            "image_setting_unknown", f"open_clip's resize_mode {mode!r} with size {size} isn't implemented"
        )
    if filter_name not in _INTERPOLATION or config.get("mode", "RGB") != "RGB":
        raise ConfigError("image_setting_unknown", f"open_clip's interpolation {filter_name!r} isn't implemented")
    return {
        "tiler": tiler,
        "resample": _INTERPOLATION[filter_name],
        "mean": _channels(config.get("mean", _MEAN), "mean"),
        "std": _channels(config.get("std", _STD), "std"),
        "background": None,
    }


# --- writing --------------------------------------------------------------------------------------------------


def _write_open_clip(processor: ImageProcessor) -> dict[str, Any]:
    tiler, names = processor.tiler, {number: name for name, number in _INTERPOLATION.items()}
    shortest = isinstance(tiler, CenterCrop) and tiler.half_even and tiler.crop == (tiler.resize, tiler.resize)
    if not (shortest or isinstance(tiler, Stretch)) or processor.rescale_factor != 1 / 255:
        raise _inexpressible(f"{tiler} of pictures whose alpha is dropped", "open_clip's own preprocessing")
    if processor.resample not in names:
        raise _inexpressible(f"resample {processor.resample}", f"one of {sorted(names)}")
    size = tiler.size if isinstance(tiler, Stretch) else tiler.crop  # type: ignore[attr-defined]
    return {
        "size": [size[1], size[0]],
        "mode": "RGB",
        "mean": list(processor.mean),
        "std": list(processor.std),
        "interpolation": names[processor.resample],
        "resize_mode": "shortest" if shortest else "squash",
        "fill_color": 0,
    }


def _dict(size: tuple[int, ...]) -> dict[str, int]:
    return {"height": size[1], "width": size[0]}


def _inexpressible(what: str, only: str) -> ConfigError:
    return ConfigError("image_setting_unwritable", f"{what} can't be written to published settings, only {only}")
