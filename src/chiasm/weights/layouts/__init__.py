"""One table per published layout; the layout of a folder follows from its config."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.weights.layouts.layout import Layout

# The modules of this folder that store whole models, in the order in which they are asked to save one.
NAMES = (
    "clip",
    "open_clip",
    "siglip",
    "llava",
    "llava_original",
    "llava_next",
    "blip",
    "vilt",
    "albef",
    "open_clip_coca",
    "align",
    "vse",
    "imagebind",
    "blip2",
    "blip2_retrieval",
    "instructblip",
    "idefics",
    "kosmos2",
    "qwen_vl",
    "xgen_mm",
    "qwen2_vl",
    "qwen2_5_vl",
    "internvl",
    "internvl_g",
    "internvl_chat",
    "kimi_vl",
    "molmo",
    "cogvlm",
    "xcomposer",
)


# Classes of remote code whose configs name no model type, or another family's.
ARCHITECTURES = {
    "CogVLMForCausalLM": "cogvlm",
    "CogVLMVideoForCausalLM": "cogvlm",
    "InternLMXComposer2ForCausalLM": "internlmxcomposer2",
}


def layouts() -> tuple[Layout, ...]:
    """Every layout that stores a whole model."""
    modules = [importlib.import_module(f"{__name__}.{name}") for name in NAMES]
    return tuple(layout for module in modules for layout in getattr(module, "LAYOUTS", None) or (module.LAYOUT,))


def layout_for(config: Mapping[str, Any]) -> Layout:
    """The layout of a published config.

    Args:
        config: from `checkpoint.read_config`.

    Returns:
        The layout.

    Raises:
        ConfigError: ``model_type_missing`` or ``model_type_unknown``, naming the known ones.
    """
    kind = config.get("model_type")
    named = (config.get("architectures") or [None])[0]
    if isinstance(named, str):
        kind = ARCHITECTURES.get(named, kind)
    every = layouts()
    known = ", ".join(sorted({name for layout in every for name in layout.model_types}))
    if not isinstance(kind, str) or not kind:
        raise ConfigError("model_type_missing", f"config.json names no model_type; known: {known}")
    if kind == "llava" and "text_config" not in config and any(key.startswith("mm_") for key in config):
        kind = "llava_llama"  # the authors' own files came first and have the same model_type
    if kind == "open_clip" and "multimodal_cfg" in (config.get("model_cfg") or {}):
        kind = "open_clip_coca"
    if kind == "blip-2" and "Blip2ForImageTextRetrieval" in (config.get("architectures") or ()):
        kind = "blip-2-retrieval"
    if kind == "internvl" and "qllama_config" in config:  # the first InternVL came before transformers' of that name
        kind = "internvl_g"
    if kind == "internvl_chat":  # the same files but for the language model's names
        kind = f"internvl_chat_{(config.get('llm_config') or {}).get('model_type', 'llama')}"
    found = next((layout for layout in every if kind in layout.model_types), None)
    if found is None:
        raise ConfigError("model_type_unknown", f"config.json has model_type {kind!r}; known: {known}")
    return found


def layout_of(config: Any) -> Layout:
    """The layout that one of our configs is saved in.

    Args:
        config: a family's configuration.

    Returns:
        The first layout that can hold it.

    Raises:
        ConfigError: ``config_unpublished``: none can; the last refusal is told.
    """
    refusal = ConfigError("config_unpublished", f"no published layout holds a {type(config).__name__}")
    for layout in layouts():
        if layout.config_type is not type(config):
            continue
        try:
            layout.config_to(config)
        except ConfigError as error:
            refusal = error
            continue
        return layout
    raise refusal


def recognised(shapes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config of an authors' checkpoint that came without one, from its tensors' shapes; None = unknown."""
    configs = (layout.recognise(shapes) for layout in layouts() if layout.recognise is not None)
    return next((config for config in configs if config is not None), None)
