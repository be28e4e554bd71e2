"""Quantization of a loaded model: which of its layers, and the output layer that many models share with the input.

The language model only, unless ``:all`` asks for everything: a vision tower is a small part of a model that writes, and
its errors reach every token. Models without a language model that writes have nothing but towers, and all is quantized.
Embeddings, norms, convolutions, routers and mixtures' experts stay as they are. An output layer has 8 bits even where
the others have 4: it alone decides between words that are nearly as probable.
"""

from __future__ import annotations

from torch import nn

from chiasm.core.errors import ConfigError
from chiasm.language.decoder import Decoder
from chiasm.language.encoder_decoder import EncoderDecoder
from chiasm.nn.quantizing import LEAST, Quantizer, eight_bits, four_bits, quantize_layers
from chiasm.nn.storage import by_rows

KINDS: dict[str, Quantizer] = {"int8": eight_bits, "int4": four_bits}


def check_kind(how: str) -> None:
    """Refuse what isn't a way to quantize, before anything is read.

    Raises:
        ConfigError: it is none of ``int8``, ``int4``, ``int8:all``, ``int4:all``.
    """
    kind, _, scope = how.partition(":")
    if kind not in KINDS or scope not in ("", "all") or how.endswith(":"):
        ways = ", ".join((*KINDS, *(f"{kind}:all" for kind in KINDS)))
        raise ConfigError("quantize_unknown", f"quantize={how!r} is not one of {ways}", hint="--quantize int8")


def quantize(module: nn.Module, how: str) -> None:
    """Quantize a loaded model in place; it can no longer be trained or saved.

    Args:
        module: the model, its weights loaded.
        how: ``int8`` or ``int4`` (the language model), ``int8:all`` or ``int4:all`` (every linear layer).

    Raises:
        ConfigError: an unknown way, or a model without a linear layer to quantize.
    """
    check_kind(how)
    kind, _, scope = how.partition(":")
    language = getattr(module, "language", None)
    writes = isinstance(language, (Decoder, EncoderDecoder))
    parts = [part for part in (language, getattr(module, "gates", None)) if part is not None]
    chosen = parts if writes and not scope else [module]
    count = sum(
        _quantize_output(part) for part in list(module.modules()) if isinstance(part, (Decoder, EncoderDecoder))
    )
    count += sum(quantize_layers(part, KINDS[kind]) for part in chosen)
    if not count:
        raise ConfigError("quantize_nothing", f"quantize={how!r}: this model has 0 linear layers to quantize")


def _quantize_output(language: Decoder | EncoderDecoder) -> int:
    """How many output layers it has that are quantized now."""
    head = language.lm_head
    if head is None:
        # a tied output layer gets numbers of its own: rows are still looked up in the embedding, unrounded
        language.lm_head = eight_bits(language.embed_tokens.weight, None)
        by_rows(language.embed_tokens.weight)
    elif type(head) is nn.Linear and min(head.weight.shape) >= LEAST:
        language.lm_head = eight_bits(head.weight, head.bias)
    else:
        return 0
    return 1
