"""BERT as transformers publishes it (``bert``), also under the prefix that its task classes add."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.language.bert import BertConfig
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Drop, Rename, Rule
from chiasm.weights.table import Table

DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "is_decoder": False,
}


def config_from(config: Mapping[str, Any]) -> BertConfig:
    """Read a ``bert`` config.

    Args:
        config: as stored.

    Returns:
        Ours, with the pooler that ``BertModel`` carries.

    Raises:
        ConfigError: a decoder, or relative positions.
    """
    fields = Fields(config, DEFAULTS, "config.json")
    fields.expect("position_embedding_type", "absolute")
    fields.expect("is_decoder", False)
    return BertConfig(
        vocab_size=fields.count("vocab_size"),
        context_length=fields.count("max_position_embeddings"),
        hidden_dim=fields.count("hidden_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_attention_heads"),
        mlp_dim=fields.count("intermediate_size"),
        num_types=fields.count("type_vocab_size"),
        act=fields.get("hidden_act"),
        norm_eps=fields.number("layer_norm_eps"),
        pooler=True,
    )


def config_to(config: BertConfig) -> dict[str, Any]:
    """The inverse of `config_from`."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": config.act,
        "max_position_embeddings": config.context_length,
        "type_vocab_size": config.num_types,
        "layer_norm_eps": config.norm_eps,
    }


def rules(config: BertConfig) -> tuple[Rule, ...]:
    """The rules between ``BertModel``'s names and `Bert`'s.

    Args:
        config: says whether the pooler is kept.

    Returns:
        The rules.
    """
    layer, block = "encoder.layer.{i}.", "blocks.{i}."
    names = {"query": "q", "key": "k", "value": "v"}
    return (
        Rename("embeddings.word_embeddings.weight", "token_embed.weight"),
        Rename("embeddings.position_embeddings.weight", "pos_embed"),
        Rename("embeddings.token_type_embeddings.weight", "type_embed"),
        Rename("embeddings.LayerNorm.{p}", "embed_norm.{p}"),
        *(Rename(f"{layer}attention.self.{n}.{{p}}", f"{block}attn.{m}_proj.{{p}}") for n, m in names.items()),
        *_cross_rules(config, names),
        Rename(layer + "attention.output.dense.{p}", block + "attn.o_proj.{p}"),
        Rename(layer + "attention.output.LayerNorm.{p}", block + "norm1.{p}"),
        Rename(layer + "intermediate.dense.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "output.dense.{p}", block + "mlp.fc2.{p}"),
        Rename(layer + "output.LayerNorm.{p}", block + "norm2.{p}"),
        Rename("pooler.dense.{p}", "pooler.{p}") if config.pooler else Drop("pooler.dense.{p}"),
        Drop("embeddings.position_ids"),
    )


def _cross_rules(config: BertConfig, names: Mapping[str, str]) -> tuple[Rule, ...]:
    if config.cross is None:
        return ()
    theirs, ours = "encoder.layer.{i}.crossattention.", "blocks.{i}."
    return (
        *(Rename(f"{theirs}self.{n}.{{p}}", f"{ours}cross_attn.{m}_proj.{{p}}") for n, m in names.items()),
        Rename(theirs + "output.dense.{p}", ours + "cross_attn.o_proj.{p}"),
        Rename(theirs + "output.LayerNorm.{p}", ours + "cross_norm.{p}"),
    )


def head_rules() -> tuple[Rule, ...]:
    """The rules of BERT's word prediction, ``cls.predictions``; its output layer is the input embedding."""
    return (
        Rename("bias", "bias"),
        Rename("transform.dense.{p}", "dense.{p}"),
        Rename("transform.LayerNorm.{p}", "norm.{p}"),
    )


def table(config: BertConfig) -> Table:
    """The whole table."""
    return Table(rules(config), aliases=(("bert.", ""),))
