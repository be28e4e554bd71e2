"""xGen-MM v1.5 as its authors publish it (``xgenmm``; ``Salesforce/xgen-mm-phi3-mini-…-r-v1.5``).

Everything stands under ``vlm.``: SigLIP's tower with its unused pooling, the resampler, Phi-3. Three words were added
in tables of their own; of the first tables the rows behind the tokenizer's words are never read. The output layer has a
bias, as the class that splits it makes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chiasm.connectors.resampler import ResamplerConfig
from chiasm.core.errors import ConfigError
from chiasm.models.xgen_mm import WORDS, XGenMMConfig, tower
from chiasm.vision.patches import FinalStates
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts import phi3, towers
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.layouts.open_flamingo import resampler_rules
from chiasm.weights.rules import Grown, Rename, Rule, prefixed
from chiasm.weights.table import Table

TEXT = {"initial_tokenizer_len": 32012, "vocab_size": 32064}
# The published config names the tower's checkpoint alone; ours writes its shape beside it where it is another.
SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
VISION = {
    "model_name": "google/siglip-so400m-patch14-384",
    "anyres_patch_sampling": True,
    "anyres_grids": [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]],
    "image_aspect_ratio": "anyres",
    "image_token_id": None,
    **SIGLIP,
}
RESAMPLER = {"num_vis_tokens": 128, "num_layers": 6, "num_heads": 16, "head_dim": 96, "mlp_dim": None}


def config_from(config: Mapping[str, Any]) -> XGenMMConfig:
    """Read an ``xgenmm`` config.

    Args:
        config: as stored; shapes of tower and resampler that it doesn't name are as published.

    Returns:
        Ours.

    Raises:
        ConfigError: another tower, or tiles that are resampled together.
    """
    vision = Fields(_part(config, "vision_encoder_config"), VISION, "vision_encoder_config")
    vision.expect("model_name", VISION["model_name"])
    vision.expect("anyres_patch_sampling", True)
    vision.expect("image_aspect_ratio", "anyres", "pad")
    text = Fields(_part(config, "text_config"), TEXT, "text_config")
    read = text.count("initial_tokenizer_len")
    shape = [vision.count(name) for name in ("image_size", "patch_size", "hidden_size", "num_hidden_layers",
                                             "num_attention_heads", "intermediate_size")]  # fmt: skip
    language = phi3.decoder_config({**text.config, "vocab_size": read + len(WORDS)}, "text_config")
    resampler = Fields(_part(config, "vision_tokenizer_config"), RESAMPLER, "vision_tokenizer_config")
    width = vision.count("hidden_size")
    connector = ResamplerConfig(
        input_dim=width,
        output_dim=language.hidden_dim,
        num_latents=resampler.count("num_vis_tokens"),
        num_layers=resampler.count("num_layers"),
        num_heads=resampler.count("num_heads"),
        head_dim=resampler.count("head_dim"),
        mlp_dim=resampler.get("mlp_dim") or 4 * width,
    )
    tiled = vision.get("image_aspect_ratio") == "anyres"
    slot = vision.get("image_token_id")
    return XGenMMConfig(
        vision=tower(*shape, pool=True),
        connector=connector,
        language=replace(language, head_bias=True),
        image_token_id=read if slot is None else slot,
        pinpoints=tuple((height, width) for width, height in vision.get("anyres_grids")) if tiled else (),
        stored_words=text.count("vocab_size"),
    )


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return Fields(config, {}, "config.json").part(key)


def config_to(config: XGenMMConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: another connector, tower or language model than the published class has.
    """
    connector, language, vision = config.connector, config.language, config.vision
    plain = isinstance(connector, ResamplerConfig) and not connector.max_frames and not connector.qk_norm
    if not isinstance(vision, ViTConfig):
        raise ConfigError("config_unpublished", "xGen-MM's layout has SigLIP's tower alone")
    own = tower(vision.image_size, vision.patch_size, vision.hidden_dim, vision.num_layers, vision.num_heads,
                vision.mlp_dim, pool=True)  # fmt: skip
    if not plain or own != vision or not language.head_bias or config.reading != FinalStates(keep_class_token=False):
        raise ConfigError("config_unpublished", "xGen-MM's layout has SigLIP with its pooling, a resampler and Phi-3")
    assert isinstance(connector, ResamplerConfig)
    if connector.act != "gelu" or language.vocab_size <= len(WORDS):
        raise ConfigError("config_unpublished", "xGen-MM's layout has a GELU in its resampler, and three added words")
    read = language.vocab_size - len(WORDS)
    text = phi3.decoder_dict(replace(language, head_bias=False))
    shape = {"hidden_size": vision.hidden_dim, "intermediate_size": vision.mlp_dim,
             "num_hidden_layers": vision.num_layers, "num_attention_heads": vision.num_heads,
             "image_size": vision.image_size, "patch_size": vision.patch_size}  # fmt: skip
    return {
        "architectures": ["XGenMMModelForConditionalGeneration"],
        "model_type": "xgenmm",
        "text_config": {**text, "vocab_size": config.stored_words, "initial_tokenizer_len": read},
        "vision_encoder_config": {
            "model_type": "xgenmm_vision_encoder",
            "model_name": VISION["model_name"],
            "anyres_patch_sampling": True,
            "image_aspect_ratio": "anyres" if config.pinpoints else "pad",
            "anyres_grids": [[width, height] for height, width in config.pinpoints] or VISION["anyres_grids"],
            **({} if config.image_token_id == read else {"image_token_id": config.image_token_id}),
            **({} if shape == SIGLIP else shape),
        },
        "vision_tokenizer_config": {
            "model_type": "xgenmm_vision_tokenizer",
            "vis_feature_dim": vision.hidden_dim,
            "lang_embedding_dim": language.hidden_dim,
            "num_vis_tokens": connector.num_latents,
            "image_aspect_ratio": "anyres",
            **_resampler_shape(connector),
        },
    }


def _resampler_shape(connector: ResamplerConfig) -> dict[str, int]:
    shape = {"num_layers": connector.num_layers, "num_heads": connector.num_heads, "head_dim": connector.head_dim}
    shape = {key: value for key, value in shape.items() if value != RESAMPLER[key]}
    return shape | ({} if connector.mlp_dim == 4 * connector.input_dim else {"mlp_dim": connector.mlp_dim})


def table(config: XGenMMConfig) -> Table:
    """The whole table."""
    language = replace(config.language, head_bias=False)
    stored, read = config.stored_words, language.vocab_size - len(WORDS)
    own: list[Rule] = [
        rule
        for rule in phi3.decoder_rules(language)
        if rule.patterns("theirs")[0] not in ("model.embed_tokens.weight", "lm_head.weight")
    ]
    words = (
        ("model.embed_tokens.weight", "model.embed_tokens.additional_embedding.weight", "embed_tokens.weight"),
        ("lm_head.weight", "lm_head.additional_fc.weight", "lm_head.weight"),
        ("lm_head.bias", "lm_head.additional_fc.bias", "lm_head.bias"),
    )
    own += [Grown((first, more), ours, stored, read) for first, more, ours in words]
    resampler = (*resampler_rules(), Rename("projection.{p}", "proj.{p}"))
    return Table(
        (
            *prefixed(towers.vision_rules(), "vlm.vision_encoder.", "vision."),
            *prefixed(resampler, "vlm.vision_tokenizer.", "connector."),
            *prefixed(own, "vlm.lang_model.", "language."),
        )
    )


LAYOUT = Layout(
    name="xgen_mm",
    family="xgen_mm",
    model_types=("xgenmm",),
    config_type=XGenMMConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
