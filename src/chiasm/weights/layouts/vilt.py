"""ViLT as transformers publishes it (``vilt``), in its five task classes; saved and in-memory names are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.fusion.single_stream import SingleStreamConfig
from chiasm.models.vilt import Answers, Head, Pairs, Ranking, Tags, ViltConfig, Words
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Drop, Rename, Reshape, Rule, Tied
from chiasm.weights.table import Table

CLASSES: dict[str, type] = {
    "ViltForMaskedLM": Words,
    "ViltForQuestionAnswering": Answers,
    "ViltForImageAndTextRetrieval": Ranking,
    "ViltForImagesAndTextClassification": Pairs,
    "ViltForTokenClassification": Tags,
}
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "type_vocab_size": 2,
    "modality_type_vocab_size": 2,
    "max_position_embeddings": 40,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 384,
    "patch_size": 32,
    "num_channels": 3,
    "qkv_bias": True,
    "max_image_length": -1,
    "num_images": -1,
}


def config_from(config: Mapping[str, Any]) -> ViltConfig:
    """Read a ``vilt`` config.

    Raises:
        ConfigError: a class without a head, or labels that aren't numbered from 0.
    """
    fields = Fields(config, _DEFAULTS, "config.json")
    kind = (config.get("architectures") or ["none"])[0]
    if kind not in CLASSES:
        raise ConfigError("config_variant", f"config.json is for {kind}; known: {', '.join(CLASSES)}")
    fields.expect("num_channels", 3)
    fields.expect("qkv_bias", True)
    most = int(fields.number("max_image_length"))
    stream = SingleStreamConfig(
        vocab_size=fields.count("vocab_size"),
        context_length=fields.count("max_position_embeddings"),
        image_size=fields.count("image_size"),
        patch_size=fields.count("patch_size"),
        hidden_dim=fields.count("hidden_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        mlp_dim=fields.count("intermediate_size"),
        num_types=fields.count("type_vocab_size"),
        num_modalities=fields.count("modality_type_vocab_size"),
        max_patches=most if most > 0 else None,
        act=fields.get("hidden_act"),
        norm_eps=fields.number("layer_norm_eps"),
    )
    return ViltConfig(stream=stream, head=_head(CLASSES[kind], fields))


def _head(kind: type, fields: Fields) -> Head:
    if kind in (Words, Ranking):
        return kind()
    named = fields.part("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    numbers = sorted(int(number) for number in named)
    if numbers != list(range(len(named))):
        raise ConfigError("config_field", f"config.json.id2label numbers {len(named)} labels up to {numbers[-1]}")
    labels = tuple(str(value) for _, value in sorted((int(key), value) for key, value in named.items()))
    return Pairs(labels=labels, images=fields.count("num_images")) if kind is Pairs else kind(labels=labels)


def config_to(config: ViltConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: the pretrained form, which no class of transformers holds.
    """
    named = next((name for name, kind in CLASSES.items() if kind is type(config.head)), None)
    if config.stream.trunk is not None:
        raise ConfigError("config_unpublished", "transformers' ViLT reads patches of pixels")
    if named is None:
        raise ConfigError("config_unpublished", "transformers has no class for a ViLT with both pretraining heads")
    stream = config.stream
    stored: dict[str, Any] = {
        "architectures": [named],
        "model_type": "vilt",
        "vocab_size": stream.vocab_size,
        "type_vocab_size": stream.num_types,
        "modality_type_vocab_size": stream.num_modalities,
        "max_position_embeddings": stream.context_length,
        "hidden_size": stream.hidden_dim,
        "num_hidden_layers": stream.num_layers,
        "num_attention_heads": stream.num_heads,
        "intermediate_size": stream.mlp_dim,
        "hidden_act": stream.act,
        "layer_norm_eps": stream.norm_eps,
        "image_size": stream.image_size,
        "patch_size": stream.patch_size,
        "max_image_length": stream.max_patches or -1,
    }
    if isinstance(config.head, (Answers, Pairs, Tags)):
        stored["id2label"] = {str(number): label for number, label in enumerate(config.head.labels)}
        stored["label2id"] = {label: number for number, label in enumerate(config.head.labels)}
    if isinstance(config.head, Pairs):
        stored["num_images"] = config.head.images
    return stored


def table(config: ViltConfig) -> Table:
    """The whole table."""
    width, places = config.stream.hidden_dim, config.stream.grid**2 + 1
    text, layer, block = "vilt.embeddings.text_embeddings.", "vilt.encoder.layer.{i}.", "stream.blocks.{i}."
    names = {"query": "q", "key": "k", "value": "v"}
    rules: list[Rule] = [
        Rename(text + "word_embeddings.weight", "stream.language.token_embed.weight"),
        Rename(text + "position_embeddings.weight", "stream.language.pos_embed"),
        Rename(text + "token_type_embeddings.weight", "stream.language.type_embed"),
        Rename(text + "LayerNorm.{p}", "stream.language.norm.{p}"),
        Reshape("vilt.embeddings.cls_token", "stream.vision.cls_token", (1, 1, width), (width,)),
        Reshape("vilt.embeddings.position_embeddings", "stream.vision.pos_embed", (1, places, width), (places, width)),
        Rename("vilt.embeddings.patch_embeddings.projection.{p}", "stream.vision.proj.{p}"),
        Rename("vilt.embeddings.token_type_embeddings.weight", "stream.modality_embed"),
        *(Rename(f"{layer}attention.attention.{n}.{{p}}", f"{block}attn.{m}_proj.{{p}}") for n, m in names.items()),
        Rename(layer + "attention.output.dense.{p}", block + "attn.o_proj.{p}"),
        Rename(layer + "layernorm_before.{p}", block + "norm1.{p}"),
        Rename(layer + "layernorm_after.{p}", block + "norm2.{p}"),
        Rename(layer + "intermediate.dense.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "output.dense.{p}", block + "mlp.fc2.{p}"),
        Rename("vilt.layernorm.{p}", "stream.norm.{p}"),
        Drop("vilt.embeddings.text_embeddings.position_ids"),
    ]
    if not isinstance(config.head, Tags):
        rules.append(Rename("vilt.pooler.dense.{p}", "pooler.{p}"))
    if isinstance(config.head, Words):
        rules += [
            Rename("mlm_score.transform.dense.{p}", "word_head.dense.{p}"),
            Rename("mlm_score.transform.LayerNorm.{p}", "word_head.norm.{p}"),
            Rename("mlm_score.decoder.bias", "word_head.bias"),
            Tied("mlm_score.decoder.weight", of=text + "word_embeddings.weight"),
            Tied("mlm_score.bias", of="mlm_score.decoder.bias"),
        ]
    elif isinstance(config.head, Ranking):
        rules.append(Rename("rank_output.{p}", "head.{p}"))
    elif isinstance(config.head, Tags):
        rules.append(Rename("classifier.{p}", "head.{p}"))
    else:
        rules.append(Rename("classifier.{i}.{p}", "head.{i}.{p}"))
    return Table(rules)


LAYOUT = Layout(
    name="vilt",
    family="vilt",
    model_types=("vilt",),
    config_type=ViltConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
)
