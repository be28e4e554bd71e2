"""Models put together for recipes: a family's configuration, a tokenizer, and parts that come with weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from chiasm.core.registry import family as known_family
from chiasm.language.decoder import Decoder
from chiasm.models.assembly import Parts
from chiasm.models.model import Model
from chiasm.processing.miniature import CHATML_TEMPLATE
from chiasm.processing.tokenizer import Tokenizer
from chiasm.weights.frozen import tower
from chiasm.weights.load import initialise, parts_of, writer_for


def assemble(
    family: str, config: Any, parts: Parts, *, seed: int, frozen: Mapping[str, nn.Module] | None = None
) -> Model:
    """Build a family's configuration with new weights, some parts replaced by ready ones.

    Args:
        family: its name.
        config: its configuration.
        parts: tokenizer, template and picture settings.
        seed: of the new weights.
        frozen: dotted name of a part (``vision``, ``language``) → a module with weights that goes there.

    Returns:
        The model; its processor is the family's own.
    """
    has = known_family(family)
    module = initialise(config, seed)
    for name, part in (frozen or {}).items():
        own = module.get_submodule(name)
        own.load_state_dict(part.state_dict(), strict=True, assign=True)
    return Model(module, has.processor(config, parts), has, config, writer=writer_for(config), name=family)


def from_preset(family: str, config: Any, processing: str | None, seed: int) -> Model:
    """A published size with new weights.

    Args:
        family, config: see `assemble`.
        processing: a folder or hub id whose tokenizer and picture settings are taken; a family's preset has none.
        seed: of the new weights.

    Raises:
        ConfigError: no `processing`.
    """
    return assemble(family, config, parts_of(processing, family), seed=seed)


def count_parameters(module: nn.Module) -> dict[str, dict[str, int]]:
    """Numbers of parameters, all and trainable, of the whole (``total``) and of each child."""
    counts = {"total": _count(module)}
    for name, child in module.named_children():
        counts[name] = _count(child)
    own = [parameter for _, parameter in module.named_parameters(recurse=False)]
    if own:
        counts["own"] = {"all": _sum(own), "trainable": _sum([p for p in own if p.requires_grad])}
    return counts


def _count(module: nn.Module) -> dict[str, int]:
    parameters = list(module.parameters())
    return {"all": _sum(parameters), "trainable": _sum([p for p in parameters if p.requires_grad])}


def _sum(parameters: list[torch.nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def speaking(name: str) -> tuple[Decoder, Tokenizer, str]:
    """A language model that comes with weights, ready for pictures.

    Args:
        name: ``pico_text`` or ``smollm2``; see `weights.frozen`.

    Returns:
        The decoder, its tokenizer with an ``<image>`` token, and the template of its turns.
    """
    decoder, tokenizer = tower(name)
    assert isinstance(decoder, Decoder) and tokenizer is not None, f"{name} doesn't speak"
    tokenizer.add_control("<image>")
    return decoder, tokenizer, CHATML_TEMPLATE


def spoken(lines: int = 400, tasks: tuple[str, ...] = ("captions",)) -> list[str]:
    """Lower-case words of generated scenes: what small tokenizers learn their pieces from.

    Args:
        lines: rows.
        tasks: kinds of them, in turn; captions, or what is asked.
    """
    from chiasm.data.worlds.world import Scenes

    scenes = Scenes("train", tasks, lines)
    return [text.lower() for sample in scenes for text in sample.captions or (sample.conversation.messages[0].text,)]
