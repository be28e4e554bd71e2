"""What authors' own checkpoints share: timm's ViT, momentum copies that are left behind, no config of their own.

`chiasm convert` recognises such a file by its tensors and writes a config beside it, in this library's own form under
the layout's `model_type`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chiasm.core.config import from_dict, to_dict
from chiasm.core.errors import ConfigError
from chiasm.vision.vit import ViTConfig
from chiasm.weights.rules import Drop, Rename, Reshape, Rule, Shape, Split


def vit_rules(config: ViTConfig) -> tuple[Rule, ...]:
    """timm's ViT with a class token."""
    width, places, block = config.hidden_dim, config.grid**2 + 1, "blocks.{i}."
    return (
        Reshape("cls_token", "cls_token", (1, 1, width), (width,)),
        Reshape("pos_embed", "pos_embed", (1, places, width), (places, width)),
        Rename("patch_embed.proj.{p}", "patch_embed.{p}"),
        Split(block + "attn.qkv.{p}", tuple(f"{block}attn.{n}_proj.{{p}}" for n in "qkv")),
        Rename(block + "attn.proj.{p}", block + "attn.o_proj.{p}"),
        *(Rename(f"{block}{n}.{{p}}", f"{block}{n}.{{p}}") for n in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")),
        Rename("norm.{p}", "norm_post.{p}"),
    )


def vit_config(shapes: Mapping[str, Shape], prefix: str, *, norm_eps: float, head_dim: int = 64) -> ViTConfig:
    """The config of a timm ViT, from its tensors' shapes; heads are `head_dim` wide, as in every published one."""
    width, _, patch, _ = shapes[prefix + "patch_embed.proj.weight"]
    side = round((shapes[prefix + "pos_embed"][1] - 1) ** 0.5)
    return ViTConfig(
        image_size=side * patch,
        patch_size=patch,
        hidden_dim=width,
        num_layers=layers_of(shapes, prefix + "blocks."),
        num_heads=max(1, width // head_dim),
        mlp_dim=shapes[prefix + "blocks.0.mlp.fc1.weight"][0],
        act="gelu",
        norm_eps=norm_eps,
        class_token=True,
        norm_pre=False,
        patch_bias=True,
        attention_pool=False,
    )


def layers_of(shapes: Iterable[str], prefix: str) -> int:
    """How many numbered layers stand under a prefix."""
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in shapes if name.startswith(prefix))


def left_behind(rules: Iterable[Rule], prefixes: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules that drop a momentum copy of what other rules take.

    Args:
        rules: of the model itself.
        prefixes: prefix of the model's tensors → prefix of the copy's.

    Returns:
        A `Drop` for each pattern under one of the prefixes.
    """
    dropped = []
    for rule in rules:
        for pattern in rule.patterns("theirs"):
            for own, other in prefixes.items():
                if pattern.startswith(own):
                    dropped.append(Drop(other + pattern[len(own) :]))
    return tuple(dropped)


def read_own(kind: type, config: Mapping[str, Any]) -> Any:
    """Our configuration from a config that `write_own` made.

    Raises:
        ConfigError: it has none.
    """
    if "config" not in config:
        raise ConfigError("config_field", "config.json has no entry 'config'", hint="chiasm convert FILE --out FOLDER")
    return from_dict(kind, config["config"])


def write_own(model_type: str, config: Any) -> dict[str, Any]:
    """A config for a layout that has none of its own."""
    return {"model_type": model_type, "config": to_dict(config)}
