"""VSE++'s own checkpoints (``.pth.tar``): a list of two state dicts, the picture's (``0.``) and the text's (``1.``).

The CNN stands under ``module.`` where it was trained on several GPUs: VGG's convolutions, the whole ResNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.recurrent import RecurrentConfig
from chiasm.models.vse import VseConfig
from chiasm.vision.cnn import ResNetConfig, VggConfig
from chiasm.weights.layouts import authors
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Rename, Rule, Shape
from chiasm.weights.table import Table

NAME = "vsepp"
CONTEXT = 128  # a recurrent network has no limit of its own
_VGG, _RESNET = "0.cnn.features.module.", "0.cnn.module."


def config_from(config: Mapping[str, Any]) -> VseConfig:
    """Read the config that `chiasm convert` wrote."""
    own: VseConfig = authors.read_own(VseConfig, config)
    return own


def config_to(config: VseConfig) -> dict[str, Any]:
    """The inverse of `config_from`.

    Raises:
        ConfigError: a decoder or cells of a frozen network, which nobody published.
    """
    if config.writer is not None:
        raise ConfigError("config_unpublished", "VSE's published layout has no decoder")
    if not isinstance(config.vision, (VggConfig, ResNetConfig)):
        raise ConfigError("config_unpublished", "VSE's published layout has a VGG or a ResNet")
    return authors.write_own(NAME, config)


def recognise(shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """The config of an authors' checkpoint with a CNN; order embeddings' tensors look like any other's."""
    text = "1.rnn.weight_ih_l0"
    if "0.fc.weight" not in shapes or "1.embed.weight" not in shapes or text not in shapes:
        return None
    vision: VggConfig | ResNetConfig
    if "0.cnn.classifier.0.weight" in shapes:
        channels = [
            shapes[name][0] for name in sorted(shapes, key=_number) if name.startswith(_VGG) and "weight" in name
        ]
        stages = _stages(
            sorted(_number(name) for name in shapes if name.startswith(_VGG) and "weight" in name), channels
        )
        hidden, inputs = shapes["0.cnn.classifier.0.weight"]
        vision = VggConfig(stages=stages, grid=round((inputs / channels[-1]) ** 0.5), hidden_dim=hidden)
    elif _RESNET + "conv1.weight" in shapes:
        first, second, third, fourth = (authors.layers_of(shapes, f"{_RESNET}layer{stage}.") for stage in range(1, 5))
        vision = ResNetConfig(layers=(first, second, third, fourth), width=shapes[_RESNET + "conv1.weight"][0])
    else:
        return None
    hidden = shapes["1.rnn.weight_hh_l0"][1]
    language = RecurrentConfig(
        vocab_size=shapes["1.embed.weight"][0],
        context_length=CONTEXT,
        embed_dim=shapes["1.embed.weight"][1],
        hidden_dim=hidden,
        num_layers=sum(name.startswith("1.rnn.weight_hh_l") for name in shapes),
        lstm=shapes["1.rnn.weight_hh_l0"][0] == 4 * hidden,
    )
    return config_to(VseConfig(vision=vision, language=language))


def _number(name: str) -> int:
    return int(name[len(_VGG) :].split(".")[0]) if name.startswith(_VGG) else -1


def _stages(positions: list[int], channels: list[int]) -> tuple[tuple[int, int], ...]:
    """Convolutions stand two apart within a stage, three apart across the pooling between stages."""
    stages: list[list[int]] = []
    for index, position in enumerate(positions):
        if index and position - positions[index - 1] == 2:
            stages[-1][0] += 1
        else:
            stages.append([1, channels[index]])
    return tuple((count, width) for count, width in stages)


def table(config: VseConfig) -> Table:
    """The whole table."""
    rules: list[Rule] = [
        Rename("0.fc.{p}", "vision_proj.{p}"),
        Rename("1.embed.weight", "language.token_embed.weight"),
        *(
            Rename(f"1.rnn.{kind}_{gate}_l{layer}", f"language.rnn.{kind}_{gate}_l{layer}")
            for kind in ("weight", "bias")
            for gate in ("ih", "hh")
            for layer in range(config.language.num_layers)
        ),
    ]
    if isinstance(config.vision, VggConfig):
        rules += [
            Rename(_VGG + "{i}.{p}", "vision.features.{i}.{p}"),
            Rename("0.cnn.classifier.0.{p}", "vision.fc6.{p}"),
            Rename("0.cnn.classifier.3.{p}", "vision.fc7.{p}"),
        ]
    else:
        rules += [Rename(f"{_RESNET}{name}.{{p}}", f"vision.{name}.{{p}}") for name in ("conv1", "bn1")]
        for stage in range(4):
            theirs, ours = f"{_RESNET}layer{stage + 1}.{{b}}.", f"vision.stages.{stage}.{{b}}."
            names = [f"{kind}{n}" for kind in ("conv", "bn") for n in (1, 2, 3)] + ["downsample.0", "downsample.1"]
            rules += [Rename(f"{theirs}{name}.{{p}}", f"{ours}{name}.{{p}}") for name in names]
    return Table(rules)


LAYOUT = Layout(
    name=NAME,
    family="vse",
    model_types=(NAME,),
    config_type=VseConfig,
    config_from=config_from,
    config_to=config_to,
    table=table,
    recognise=recognise,
)
