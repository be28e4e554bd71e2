"""LLaVA-NeXT as transformers publishes it (``llava_next``); the same three spellings as ``llava``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.models.llava_next import PINPOINTS, LlavaNextConfig
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.llava import MODULES, common, common_dict, table


def config_from(config: Mapping[str, Any]) -> LlavaNextConfig:
    """Read a ``llava_next`` config.

    Args:
        config: as stored.

    Returns:
        Ours.

    Raises:
        ConfigError: canvases that are no (height, width) pairs; see also `llava.common`.
    """
    points = config.get("image_grid_pinpoints") or PINPOINTS
    if not all(len(p) == 2 and all(isinstance(n, int) and n > 0 for n in p) for p in points):
        raise ConfigError("config_field", f"config.json.image_grid_pinpoints is {points!r}, not (height, width) pairs")
    return LlavaNextConfig(**common(config), pinpoints=tuple((p[0], p[1]) for p in points))


def config_to(config: LlavaNextConfig) -> dict[str, Any]:
    """The inverse of `config_from`."""
    return {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "model_type": "llava_next",
        **common_dict(config),
        "image_grid_pinpoints": [list(point) for point in config.pinpoints],
    }


LAYOUT = Layout(
    name="llava_next",
    family="llava_next",
    model_types=("llava_next",),
    config_type=LlavaNextConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
    modules=MODULES,
)
