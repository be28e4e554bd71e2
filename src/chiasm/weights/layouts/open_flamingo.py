"""OpenFlamingo's ``checkpoint.pt`` as tensors: the trained part alone, the towers being published elsewhere.

``perceiver.*``, ``lang_encoder.gated_cross_attn_layers.N.*`` (N counts the language model's layers) and the language
model's input embeddings, which grew by two words. A whole model of this family is saved in the native layout.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from chiasm.models.flamingo import FlamingoConfig
from chiasm.weights.layouts.languages import language_of
from chiasm.weights.rules import Rename, Rule, Split, prefixed
from chiasm.weights.table import Table


def resampler_rules() -> tuple[Rule, ...]:
    """Between ``PerceiverResampler``'s names and `Resampler`'s, without prefixes."""
    attention, mlp, block = "layers.{i}.0.", "layers.{i}.1.", "blocks.{i}."
    return (
        Rename("latents", "latents"),
        Rename("frame_embs", "frame_embed"),
        Rename("norm.{p}", "norm.{p}"),
        Rename(attention + "norm_media.{p}", block + "norm_context.{p}"),
        Rename(attention + "norm_latents.{p}", block + "norm1.{p}"),
        Rename(attention + "to_q.{p}", block + "attn.q_proj.{p}"),
        Split(attention + "to_kv.{p}", (block + "attn.k_proj.{p}", block + "attn.v_proj.{p}")),
        Rename(attention + "to_out.{p}", block + "attn.o_proj.{p}"),
        Rename(mlp + "0.{p}", block + "norm2.{p}"),
        Rename(mlp + "1.{p}", block + "mlp.fc1.{p}"),
        Rename(mlp + "3.{p}", block + "mlp.fc2.{p}"),
    )


def gate_rules() -> tuple[Rule, ...]:
    """Between ``GatedCrossAttentionBlock``'s names and `GatedCrossBlock`'s, without prefixes."""
    return (
        Rename("attn_gate", "attn_gate"),
        Rename("ff_gate", "mlp_gate"),
        Rename("attn.norm.{p}", "norm1.{p}"),
        Rename("attn.to_q.{p}", "cross_attn.q_proj.{p}"),
        Split("attn.to_kv.{p}", ("cross_attn.k_proj.{p}", "cross_attn.v_proj.{p}")),
        Rename("attn.to_out.{p}", "cross_attn.o_proj.{p}"),
        Rename("ff.0.{p}", "norm2.{p}"),
        Rename("ff.1.{p}", "mlp.fc1.{p}"),
        Rename("ff.3.{p}", "mlp.fc2.{p}"),
    )


def trained_table(config: FlamingoConfig) -> Table:
    """The table of what OpenFlamingo trains and publishes."""
    embedding = next(
        rule.theirs
        for rule in language_of(config.language).rules(config.language)
        if isinstance(rule, Rename) and rule.ours == "embed_tokens.weight"
    )
    return Table(
        (
            *prefixed(resampler_rules(), "perceiver.", "connector."),
            *prefixed(gate_rules(), "lang_encoder.gated_cross_attn_layers.{n}.", "gates.{n}."),
            Rename("lang_encoder." + embedding, "language.embed_tokens.weight"),
        )
    )


def load_trained(module: nn.Module, config: FlamingoConfig, state: Mapping[str, torch.Tensor]) -> int:
    """Fill the trained part of a model whose towers are there already.

    Args:
        module: a `Flamingo`.
        config: its own.
        state: the tensors of a ``checkpoint.pt``.

    Returns:
        How many of the module's tensors were filled.

    Raises:
        CheckpointError: a tensor that the model lacks, or of another shape; the part isn't filled at all then.
    """
    ours = {name: tensor for name, tensor in module.state_dict().items() if is_trained(name)}
    table = trained_table(config)
    table.check({name: tuple(t.shape) for name, t in state.items()}, {name: tuple(t.shape) for name, t in ours.items()})
    filled = table.to_ours(state)
    module.load_state_dict(filled, strict=False)
    return len(filled)


def trained_state(module: nn.Module, config: FlamingoConfig) -> dict[str, torch.Tensor]:
    """The trained part under its published names, the inverse of `load_trained`."""
    state = {name: tensor for name, tensor in module.state_dict().items() if is_trained(name)}
    return trained_table(config).to_theirs(state)


def is_trained(name: str) -> bool:
    """Whether OpenFlamingo trains a parameter: resampler, gated layers, input embeddings."""
    return name.startswith(("connector.", "gates.")) or name == "language.embed_tokens.weight"
