"""Rotary positions in published configs: ``rope_parameters`` as transformers 5 writes them, or ``rope_theta`` beside
``rope_scaling``, in which the kind may be called ``type``, and LongRoPE ``su``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.nn.positions import Llama3RotaryConfig, LogRotaryConfig, RotaryConfig
from chiasm.nn.rotary_scaling import (
    DoublingScaling,
    DynamicScaling,
    LongScaling,
    RotaryScaling,
    YarnScaling,
    long_attention_factor,
    yarn_attention_factor,
)
from chiasm.weights.layouts.fields import Fields

ORIGINAL = "original_max_position_embeddings"
KINDS = ("default", "linear", "llama3", "dynamic", "yarn", "longrope")


def rope_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a config says of rotary positions, newer fields over older ones."""
    fields = Fields(config, {}, "config.json")
    stored = {**fields.part("rope_scaling"), **fields.part("rope_parameters")}
    kind = stored.get("rope_type", stored.get("type", "default"))
    stored["rope_type"] = "longrope" if kind == "su" else "default" if kind == "mrope" else kind
    if stored.get("rope_theta") is None:
        stored["rope_theta"] = config.get("rope_theta") or 10000.0
    if stored.get(ORIGINAL) is None and config.get(ORIGINAL) is not None:
        stored[ORIGINAL] = config[ORIGINAL]
    return stored


def rotary_config(config: Mapping[str, Any], trained: int, head_dim: int, where: str) -> RotaryConfig:
    """Read rotary positions.

    Args:
        config: a language model's.
        trained: its ``max_position_embeddings``.
        head_dim: features of a head.
        where: how errors name it.

    Raises:
        ConfigError: a kind that we don't know, or a field that is missing or wrong.
    """
    stored = rope_fields(config)
    kind, theta = stored["rope_type"], float(stored["rope_theta"])
    fields = Fields(stored, {"factor": 1.0}, f"{where}: rope_parameters")
    if kind == "default":
        return RotaryConfig(theta=theta)
    if kind == "linear":
        return RotaryConfig(theta=theta, linear_factor=fields.number("factor"))
    if kind == "llama3":
        return Llama3RotaryConfig(
            theta=theta,
            factor=fields.number("factor"),
            low_freq_factor=fields.number("low_freq_factor"),
            high_freq_factor=fields.number("high_freq_factor"),
            original_context=fields.count(ORIGINAL),
        )
    if kind not in KINDS:
        raise ConfigError("rope_unknown", f"{where} asks for {kind!r} rotary positions; known are {', '.join(KINDS)}")
    return RotaryConfig(theta=theta, scaling=_scaling(kind, stored, trained, head_dim // 2, where))


def _scaling(kind: str, stored: Mapping[str, Any], trained: int, pairs: int, where: str) -> RotaryScaling:
    defaults = {ORIGINAL: trained, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
    fields = Fields(stored, defaults, f"{where}: rope_parameters")
    original = fields.count(ORIGINAL)
    factor = fields.number("factor") if stored.get("factor") is not None else trained / original
    given = stored.get("attention_factor")
    if kind == "dynamic":
        return DynamicScaling(factor=factor, original_context=trained)
    if kind == "yarn":
        inferred = yarn_attention_factor(factor, stored.get("mscale"), stored.get("mscale_all_dim"))
        return YarnScaling(
            factor=factor,
            original_context=original,
            attention_factor=inferred if given is None else float(given),
            beta_fast=fields.number("beta_fast"),
            beta_slow=fields.number("beta_slow"),
            truncate=fields.flag("truncate"),
        )
    short, long = (_factors(stored, name, where) for name in ("short_factor", "long_factor"))
    if not len(short) == len(long) == pairs:
        what = f"{where} has {len(short)} short and {len(long)} long factors, a head has {pairs} pairs of features"
        raise ConfigError("rope_factors", what)
    inferred = long_attention_factor(factor, original)
    return LongScaling(
        short_factors=short,
        long_factors=long,
        original_context=original,
        attention_factor=inferred if given is None else float(given),
    )


def _factors(stored: Mapping[str, Any], name: str, where: str) -> tuple[float, ...]:
    values = stored.get(name)
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) and v > 0 for v in values):
        raise ConfigError(
            "rope_factors", f"{where}: {name} is {str(values)[:60]}, a list of positive numbers is needed"
        )
    return tuple(float(value) for value in values)


def context_length(rotary: RotaryConfig, trained: int) -> int:
    """Most positions: what scaling extends the trained context to, where the config says less."""
    scaling = rotary.scaling
    if isinstance(scaling, (YarnScaling, DynamicScaling)):
        return max(trained, int(scaling.factor * scaling.original_context))
    return trained


def stored_context(rotary: RotaryConfig, length: int) -> int:
    """The inverse: ``max_position_embeddings``."""
    return rotary.scaling.original_context if isinstance(rotary.scaling, DynamicScaling) else length


def rope_parameters(rotary: RotaryConfig) -> dict[str, Any]:
    """Rotary positions as transformers 5 stores them.

    Raises:
        ConfigError: Qwen's own, for which it has no name.
    """
    if isinstance(rotary, LogRotaryConfig) or isinstance(rotary.scaling, DoublingScaling):
        raise ConfigError("config_unpublished", "rope_parameters have no name for Qwen's positions beyond its context")
    out: dict[str, Any] = {"rope_type": "default", "rope_theta": rotary.theta}
    scaling = rotary.scaling
    if isinstance(rotary, Llama3RotaryConfig):
        return out | {
            "rope_type": "llama3",
            "factor": rotary.factor,
            "low_freq_factor": rotary.low_freq_factor,
            "high_freq_factor": rotary.high_freq_factor,
            ORIGINAL: rotary.original_context,
        }
    if isinstance(scaling, DynamicScaling):
        return out | {"rope_type": "dynamic", "factor": scaling.factor}
    if isinstance(scaling, YarnScaling):
        return out | {
            "rope_type": "yarn",
            "factor": scaling.factor,
            ORIGINAL: scaling.original_context,
            "attention_factor": scaling.attention_factor,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
        }
    if isinstance(scaling, LongScaling):
        return out | {
            "rope_type": "longrope",
            "short_factor": list(scaling.short_factors),
            "long_factor": list(scaling.long_factors),
            ORIGINAL: scaling.original_context,
            "attention_factor": scaling.attention_factor,
        }
    return out if rotary.linear_factor == 1.0 else out | {"rope_type": "linear", "factor": rotary.linear_factor}
