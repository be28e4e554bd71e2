"""ALBEF's own checkpoints (``.pth``): pretrained, and fine-tuned for retrieval, entailment, pairs and questions.

They carry no config; what the tensors don't say is as in every published one: heads of 64, ε of 1e-6 and 1e-12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.bert import BertConfig, CrossConfig
from chiasm.models.albef import CLS, ENTAILMENT, AlbefConfig, Labels, Pretraining, Questions
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts import authors, bert
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Drop, Rename, Rule, Shape, Tied, prefixed
from chiasm.weights.table import Table

NAME = "albef"
_HEAD_DIM = 64


def config_from(config: Mapping[str, Any]) -> AlbefConfig:
    """Read the config that `chiasm convert` wrote."""
    own: AlbefConfig = authors.read_own(AlbefConfig, config)
    return own


def config_to(config: AlbefConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: another tower, which nobody published.
    """
    if not isinstance(config.vision, ViTConfig):
        raise ConfigError("config_unpublished", "ALBEF's published layout has a ViT")
    return authors.write_own(NAME, config)


def recognise(shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """The config of one of the authors' checkpoints, from its tensors.

    Args:
        shapes: of every tensor.

    Returns:
        The config; None = it is something else.
    """
    text = next(
        (p for p in ("text_encoder.bert.", "text_encoder.") if p + "embeddings.word_embeddings.weight" in shapes), ""
    )
    heads = {"itm_head.weight", "cls_head.2.weight", "text_decoder.cls.predictions.bias"} & set(shapes)
    crossed = [name for name in shapes if name.startswith(text) and ".crossattention.self.key.weight" in name]
    typed = text + "embeddings.token_type_embeddings.weight" in shapes  # BLIP's have none
    if not (text and typed and crossed and len(heads) == 1 and "visual_encoder.patch_embed.proj.weight" in shapes):
        return None
    vision = authors.vit_config(shapes, "visual_encoder.", norm_eps=1e-6)
    layers = authors.layers_of(shapes, text + "encoder.layer.")
    vocab, width = shapes[text + "embeddings.word_embeddings.weight"]
    first = min(int(name[len(text + "encoder.layer.") :].split(".")[0]) for name in crossed)
    language = BertConfig(
        vocab_size=vocab,
        context_length=shapes[text + "embeddings.position_embeddings.weight"][0],
        hidden_dim=width,
        num_layers=layers,
        num_heads=max(1, width // _HEAD_DIM),
        mlp_dim=shapes[text + "encoder.layer.0.intermediate.dense.weight"][0],
        num_types=shapes[text + "embeddings.token_type_embeddings.weight"][0],
        cross=CrossConfig(context_dim=vision.hidden_dim, first_layer=first),
    )
    return config_to(
        AlbefConfig(vision=vision, language=language, head=_head(heads.pop(), shapes, text, layers, first))
    )


def _head(
    found: str, shapes: Mapping[str, Shape], text: str, layers: int, first: int
) -> Pretraining | Labels | Questions:
    if found == "itm_head.weight":
        return Pretraining(embed_dim=shapes["vision_proj.weight"][0], words=text.endswith("bert."))
    if found == "cls_head.2.weight":
        classes = shapes[found][0]
        doubled = classes == 2 and layers == 3 * first
        named = ("False", "True") if doubled else ENTAILMENT if classes == len(ENTAILMENT) else ()
        return Labels(labels=named or tuple(f"LABEL_{n}" for n in range(classes)), images=2 if doubled else 1)
    return Questions(num_layers=authors.layers_of(shapes, "text_decoder.bert.encoder.layer."), start_id=CLS)


def table(config: AlbefConfig) -> Table:
    """The whole table; momentum copies and queues are left behind."""
    head, vision, language = config.head, config.vision, bert.rules(config.language)
    assert isinstance(vision, ViTConfig), "another tower is refused by config_to"
    words = isinstance(head, Pretraining) and head.words
    encoder = "text_encoder.bert." if words else "text_encoder."
    rules: list[Rule] = [
        *prefixed(authors.vit_rules(vision), "visual_encoder.", "vision."),
        *prefixed(language, encoder, "language."),
    ]
    if isinstance(head, Pretraining):
        named = {"vision_proj": "vision_proj", "text_proj": "text_proj", "itm_head": "match_head"}
        rules += [Rename(f"{theirs}.{{p}}", f"{ours}.{{p}}") for theirs, ours in named.items()]
        rules.append(Rename("temp", "temperature"))
        rules += [Drop(name) for name in ("image_queue", "text_queue", "idx_queue", "queue_ptr")]
        if words:
            rules += _word_rules("text_encoder.", encoder, "word_head.")
    elif isinstance(head, Labels):
        rules.append(Rename("cls_head.{i}.{p}", "head.{i}.{p}"))
    else:
        crossed = replace(config.language, cross=CrossConfig(context_dim=config.language.hidden_dim))
        rules += prefixed(bert.rules(crossed), "text_decoder.bert.", "decoder.")
        rules += _word_rules("text_decoder.", "text_decoder.bert.", "lm_head.")
    copies = ("visual_encoder", "text_encoder", "text_decoder", "vision_proj", "text_proj", "cls_head")
    return Table((*rules, *authors.left_behind(rules, {f"{name}.": f"{name}_m." for name in copies})))


def _word_rules(prefix: str, encoder: str, ours: str) -> list[Rule]:
    predictions = prefix + "cls.predictions."
    return [
        *prefixed(bert.head_rules(), predictions, ours),
        Tied(predictions + "decoder.weight", of=encoder + "embeddings.word_embeddings.weight"),
        Tied(predictions + "decoder.bias", of=predictions + "bias"),
    ]


LAYOUT = Layout(
    name=NAME,
    family="albef",
    model_types=(NAME,),
    config_type=AlbefConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
    recognise=recognise,
)
