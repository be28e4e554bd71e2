"""LLaVA as its authors publish it (haotian-liu/LLaVA): the language model's own names with ``mm_projector`` beside.

The first LLaVA's connector is linear (``model.mm_projector.{weight,bias}``); 1.5's has two layers
(``model.mm_projector.{0,2}``). Vision weights stand under ``model.vision_tower.vision_tower.`` where a file
has them. The authors' early files leave the tower out and name CLIP on the hub; those are refused for the missing
tensors. The authors' config holds no shape of the tower: it follows from ``mm_vision_tower``, or from the
``vision_config`` that we write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.connectors.linear import LinearConnectorConfig
from chiasm.connectors.mlp import MLPConnectorConfig
from chiasm.core.errors import ConfigError
from chiasm.models.llava import LlavaConfig
from chiasm.vision.patches import PatchSelection
from chiasm.weights.layouts import towers
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.llama import decoder_config, decoder_dict, decoder_rules
from chiasm.weights.layouts.llava import TOWER
from chiasm.weights.rules import Rename, prefixed
from chiasm.weights.table import Table

KNOWN_TOWERS = {"openai/clip-vit-large-patch14": 224, "openai/clip-vit-large-patch14-336": 336}
DEFAULTS = {
    "mm_projector_type": "linear",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "image_token_index": None,
}
_TOWER_PREFIX = "model.vision_tower.vision_tower."


def config_from(config: Mapping[str, Any]) -> LlavaConfig:
    """Read the authors' config.

    Args:
        config: as stored.

    Returns:
        Ours. The picture slot's id, which the authors keep outside the vocabulary, becomes the first id behind
        it where the config doesn't say.

    Raises:
        ConfigError: an unknown tower or connector, or pictures in several crops (LLaVA-NeXT).
    """
    fields = Fields(config, DEFAULTS, "config.json")
    fields.expect("mm_projector_type", "linear", "mlp2x_gelu")
    fields.expect("mm_vision_select_feature", "patch", "cls_patch")
    Fields(config, {"image_aspect_ratio": "pad"}, "config.json").expect("image_aspect_ratio", "pad", "square")
    shape = fields.part("vision_config")
    if not shape:
        name = config.get("mm_vision_tower")
        if name not in KNOWN_TOWERS:
            raise ConfigError(
                "config_variant", f"config.json: mm_vision_tower is {name!r}; known: {', '.join(KNOWN_TOWERS)}"
            )
        shape = {**TOWER, "image_size": KNOWN_TOWERS[name]}
    vision = towers.vision_config(shape, "clip_vision_model")
    language = decoder_config({**config, "model_type": "llama"})
    linear = fields.get("mm_projector_type") == "linear"
    connector_type = LinearConnectorConfig if linear else MLPConnectorConfig
    slot = fields.get("image_token_index")
    return LlavaConfig(
        vision=vision,
        connector=connector_type(input_dim=vision.hidden_dim, output_dim=language.hidden_dim),
        language=language,
        image_token_id=language.vocab_size if slot is None else slot,
        selection=PatchSelection(
            layer=fields.get("mm_vision_select_layer"),
            keep_class_token=fields.get("mm_vision_select_feature") == "cls_patch",
        ),
    )


def config_to(config: LlavaConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Args:
        config: ours.

    Returns:
        The authors' form, with the tower's shape added.

    Raises:
        ConfigError: a connector or tower that their code has no name for.
    """
    linear = isinstance(config.connector, LinearConnectorConfig)
    if not linear and (config.connector.act, config.connector.bias) != ("gelu", True):  # type: ignore[union-attr]
        raise ConfigError("config_unpublished", "LLaVA's own layout has a GELU and biases in its connector")
    if not config.vision.class_token or len(config.selection.layers) > 1:
        raise ConfigError("config_unpublished", "LLaVA's own layout has one layer of CLIP's tower")
    return decoder_dict(config.language) | {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "image_token_index": config.image_token_id,
        "mm_hidden_size": config.vision.hidden_dim,
        "mm_projector_type": "linear" if linear else "mlp2x_gelu",
        "mm_vision_select_layer": config.selection.layers[0],
        "mm_vision_select_feature": "cls_patch" if config.selection.keep_class_token else "patch",
        "vision_config": towers.vision_dict(config.vision),
    }


def table(config: LlavaConfig) -> Table:
    """The whole table."""
    connector = [Rename("model.mm_projector.{p}", "connector.{p}")]
    if isinstance(config.connector, MLPConnectorConfig):
        connector = [Rename(f"model.mm_projector.{n}.{{p}}", f"connector.fc{m}.{{p}}") for n, m in ((0, 1), (2, 2))]
    return Table(
        (
            *prefixed(towers.vision_rules(), _TOWER_PREFIX, "vision."),
            *connector,
            *prefixed(decoder_rules(config.language), "", "language."),
        ),
        aliases=((_TOWER_PREFIX + "vision_model.", _TOWER_PREFIX),),
    )


LAYOUT = Layout(
    name="llava_original",
    family="llava",
    model_types=("llava_llama",),
    config_type=LlavaConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
