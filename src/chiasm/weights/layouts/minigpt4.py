"""MiniGPT-4 as its authors publish it: one affine map, and three parts that others publish.

| part | tensors | published as |
|---|---|---|
| the map | ``llama_proj.*`` | ``pretrained_minigpt4….pth`` |
| BLIP-2's Q-Former | ``query_tokens``, ``Qformer.bert.*``, ``ln_vision.*`` | ``blip2_pretrained_flant5xxl.pth`` |
| EVA's tower | ``patch_embed.*``, ``blocks.*``, … | ``eva_vit_g.pth`` |
| Vicuna | LLaMA's own | a folder |

Of the tower all layers but the last are read (its last norm lies with the Q-Former); its queries and values have
biases, keys none. Of the Q-Former nothing of its text side is read. Whatever else lies in the first three files isn't
MiniGPT-4's. The whole is saved in this library's own layout.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from chiasm.connectors.qformer import QFormerConfig
from chiasm.language.decoder import DecoderConfig
from chiasm.models.minigpt4 import MiniGpt4Config
from chiasm.vision.vit import ViTConfig
from chiasm.weights.layouts.authors import layers_of, vit_config, vit_rules
from chiasm.weights.layouts.languages import language_rules
from chiasm.weights.rules import Rename, Rule, Shape, Unsqueeze, prefixed
from chiasm.weights.table import Table

MARK = "llama_proj.weight"
LANGUAGE = "language."  # stands before Vicuna's names
_LAYER = "Qformer.bert.encoder.layer."
_HEADS = {"vision": 88, "qformer": 64}  # features of a head


def read_part(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What MiniGPT-4 takes of one file."""
    if "patch_embed.proj.weight" in state:
        return _tower(state)
    return {name: tensor for name, tensor in state.items() if _read(name)}


def _tower(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    last = f"blocks.{layers_of({name: () for name in state}, 'blocks.') - 1}."
    kept = {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(("patch_embed.", "blocks.", "cls_token", "pos_embed")) and not name.startswith(last)
    }
    for name in [name for name in kept if name.endswith("attn.q_bias")]:
        stem = name.removesuffix("q_bias")
        queries, values = kept.pop(name), kept.pop(stem + "v_bias")
        kept[stem + "qkv.bias"] = torch.cat((queries, torch.zeros_like(queries), values))
    return kept


def _read(name: str) -> bool:
    if name.startswith(_LAYER):
        part = name.removeprefix(_LAYER).split(".")[1]
        return part not in ("intermediate", "output")  # the text's MLP
    return name == "query_tokens" or name.startswith(
        ("llama_proj.", "ln_vision.", "Qformer.bert.embeddings.LayerNorm.")
    )


def config_of(shapes: Mapping[str, Shape], language: DecoderConfig, slot: int) -> MiniGpt4Config:
    """The configuration of parts put together.

    Args:
        shapes: of the first three parts' tensors.
        language: Vicuna's.
        slot: id of a picture slot.
    """
    _, queries, width = shapes["query_tokens"]
    layers = layers_of(shapes, _LAYER)
    crossing = [at for at in range(layers) if f"{_LAYER}{at}.crossattention.self.key.weight" in shapes]
    connector = QFormerConfig(
        input_dim=shapes[f"{_LAYER}0.crossattention.self.key.weight"][1],
        output_dim=shapes[MARK][0],
        num_queries=queries,
        hidden_dim=width,
        num_layers=layers,
        num_heads=max(1, width // _HEADS["qformer"]),
        mlp_dim=shapes[f"{_LAYER}0.intermediate_query.dense.weight"][0],
        cross_every=crossing[1] if len(crossing) > 1 else layers,
    )
    vision = vit_config(shapes, "", norm_eps=1e-6, head_dim=_HEADS["vision"])
    return MiniGpt4Config(vision=vision, connector=connector, language=language, image_token_id=slot)


def table(config: MiniGpt4Config) -> Table:
    """The rules of all four parts."""
    assert isinstance(config.vision, ViTConfig)
    tower = [rule for rule in vit_rules(config.vision) if "norm.{p}" not in rule.patterns("theirs")]
    return Table(
        (
            *prefixed(tower, "", "vision."),
            Rename("ln_vision.{p}", "vision.norm_post.{p}"),
            *prefixed(_qformer_rules(), "", "connector."),
            Rename("llama_proj.{p}", "connector.proj.{p}"),
            *prefixed(language_rules(config.language), LANGUAGE, "language."),
        )
    )


def _qformer_rules() -> tuple[Rule, ...]:
    layer, block = _LAYER + "{i}.", "blocks.{i}."
    rules: list[Rule] = [
        Unsqueeze("query_tokens", "queries"),
        Rename("Qformer.bert.embeddings.LayerNorm.{p}", "embed_norm.{p}"),
        Rename(layer + "intermediate_query.dense.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "output_query.dense.{p}", block + "mlp.fc2.{p}"),
        Rename(layer + "output_query.LayerNorm.{p}", block + "norm2.{p}"),
    ]
    for theirs, ours, after in (("attention", "attn", "norm1"), ("crossattention", "cross_attn", "cross_norm")):
        for name, short in (("query", "q"), ("key", "k"), ("value", "v")):
            rules.append(Rename(f"{layer}{theirs}.self.{name}.{{p}}", f"{block}{ours}.{short}_proj.{{p}}"))
        rules.append(Rename(f"{layer}{theirs}.output.dense.{{p}}", f"{block}{ours}.o_proj.{{p}}"))
        rules.append(Rename(f"{layer}{theirs}.output.LayerNorm.{{p}}", f"{block}{after}.{{p}}"))
    return tuple(rules)
