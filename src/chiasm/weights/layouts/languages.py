"""Every language model that a composite checkpoint may nest, by the ``model_type`` of its part of the config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.language.encoder_decoder import EncoderDecoderConfig
from chiasm.language.mixture import MixtureDecoderConfig
from chiasm.nn.additive_positions import LearnedPositionsConfig
from chiasm.nn.position_bias import AlibiConfig
from chiasm.weights.layouts import deepseek, gpt2, llama, mpt, opt, phi3, t5
from chiasm.weights.layouts.fields import Fields
from chiasm.weights.rules import Rule
from chiasm.weights.table import Table

LanguageConfig = DecoderConfig | EncoderDecoderConfig


@dataclass(frozen=True, slots=True)
class Language:
    """One published form of a language model.

    Attributes:
        model_types: what its configs say; the first is written.
        read: (published config, where) → ours.
        write: the inverse.
        rules: our config → the rules of its tensors.
    """

    model_types: tuple[str, ...]
    read: Callable[..., Any]
    write: Callable[[Any], dict[str, Any]]
    rules: Callable[[Any], tuple[Rule, ...]]


LANGUAGES = (
    Language(llama.MODEL_TYPES, llama.decoder_config, llama.decoder_dict, llama.decoder_rules),
    Language(("opt",), opt.decoder_config, opt.decoder_dict, opt.decoder_rules),
    Language(("gpt2",), gpt2.decoder_config, gpt2.decoder_dict, gpt2.decoder_rules),
    Language(("mpt",), mpt.decoder_config, mpt.decoder_dict, mpt.decoder_rules),
    Language(("phi3",), phi3.decoder_config, phi3.decoder_dict, phi3.decoder_rules),
    Language(("deepseek_v3",), deepseek.decoder_config, deepseek.decoder_dict, deepseek.decoder_rules),
    Language(t5.MODEL_TYPES, t5.encoder_decoder_config, t5.encoder_decoder_dict, t5.rules),
)


def language(model_type: str, where: str = "text_config") -> Language:
    """The form that a ``model_type`` names.

    Raises:
        ConfigError: ``model_type_unknown``, naming the known ones.
    """
    for each in LANGUAGES:
        if model_type in each.model_types:
            return each
    known = ", ".join(name for each in LANGUAGES for name in each.model_types)
    raise ConfigError("model_type_unknown", f"{where} has model_type {model_type!r}; known here: {known}")


def language_config(config: Mapping[str, Any], where: str = "text_config") -> LanguageConfig:
    """Read a nested language model's config; raises as the one that its ``model_type`` names."""
    return language(Fields(config, {}, where).get("model_type"), where).read(config, where)


def language_of(config: LanguageConfig) -> Language:
    """The form that one of our configs is written in; what fits the LLaMA family is written as such."""
    if isinstance(config, EncoderDecoderConfig):
        return language("t5")
    if isinstance(config, MixtureDecoderConfig):
        return language("deepseek_v3")
    if isinstance(config.positions, AlibiConfig):
        return language("mpt")
    if isinstance(config.positions, LearnedPositionsConfig):
        return language("opt" if config.positions.offset == opt.OFFSET else "gpt2")
    return language("llama")


def language_dict(config: LanguageConfig) -> dict[str, Any]:
    """The inverse of `language_config`."""
    return language_of(config).write(config)


def language_rules(config: LanguageConfig) -> tuple[Rule, ...]:
    """The rules of its tensors, without prefixes."""
    return language_of(config).rules(config)


def table(config: LanguageConfig, model_type: str | None = None) -> Table:
    """The whole table of a language model on its own, in the form of `model_type` or its usual one."""
    return Table((language_of(config) if model_type is None else language(model_type)).rules(config))
