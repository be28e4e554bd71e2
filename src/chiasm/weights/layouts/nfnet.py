"""timm's NFNets (``dm_nfnet_f6``, ``nf_resnet50``) ↔ `vision/nfnet.py`; last convolution and classifier are dropped."""

from __future__ import annotations

from chiasm.weights.rules import Drop, Rename, Rule

_THEIRS, _OURS = "stages.{s}.{i}.", "stages.{s}.{i}."
RULES: tuple[Rule, ...] = (
    *(Rename(f"stem.conv{index + 1}.{{p}}", f"stem.{index}.{{p}}") for index in range(1, 4)),
    Rename("stem.conv1.{p}", "stem.0.{p}"),
    Rename("stem.conv.{p}", "stem.0.{p}"),
    Rename(_THEIRS + "downsample.conv.{p}", _OURS + "shortcut.{p}"),
    *(Rename(f"{_THEIRS}{name}.{{p}}", f"{_OURS}{name}.{{p}}") for name in ("conv1", "conv2", "conv2b", "conv3")),
    Rename(_THEIRS + "attn_last.fc1.{p}", _OURS + "squeeze.fc1.{p}"),
    Rename(_THEIRS + "attn_last.fc2.{p}", _OURS + "squeeze.fc2.{p}"),
    Rename(_THEIRS + "skipinit_gain", _OURS + "skip_gain"),
    Drop("final_conv.{p}"),
    Drop("head.fc.{p}"),
)
