"""The connector's training of the pico recipe that learns boxes: what covers each cell, and where its box lies."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.messages import Conversation, ImagePart, Message
from chiasm.data.named import open_named
from chiasm.data.worlds.director import cast
from chiasm.recipes.run import Run
from chiasm.recipes.running.task import Task
from chiasm.training.features import frozen_features
from chiasm.training.feed import Numbered

if TYPE_CHECKING:
    from chiasm.recipes.grounding import CellBoxes

BINS = 100  # classes of a side
SPREAD = 1.0  # bins: a neighbouring class is nearly right


def cell_boxes(task: CellBoxes, run: Run, out: Path) -> Task:
    """The training, put together: features from a store, targets from the stages themselves."""
    model = task.model.build(run.family, run.seed)
    model.module.requires_grad_(False)
    store = frozen_features(model.module, model.processor, out / "features", dtype="float16")
    assert store is not None
    torch.manual_seed(run.seed)
    connector = model.module.get_submodule("connector").requires_grad_(True)
    cells = model.config.connector.num_positions
    head = nn.Linear(task.model.hidden_dim, len(_names()) + 1 + 4 * BINS)
    data, processor = open_named(task.scenes), store.processor
    per_epoch = -(-len(data) // run.batch_size)

    @cache
    def target(row: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
        stage = next(iter(data[row].conversation.images())).source
        return (stage, *cell_targets(stage, cells))

    def batch(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        epoch, at = divmod(number, per_epoch)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(run.seed + epoch)).tolist()
        rows = order[at * run.batch_size : (at + 1) * run.batch_size]
        stages, names, sides = zip(*(target(row) for row in rows), strict=True)
        shown = [Conversation((Message("user", (ImagePart(stage),)),)) for stage in stages]
        features = store.fill(processor(shown)).features
        assert features is not None
        return features, torch.stack(names), torch.stack(sides)

    def finish(folder: Path) -> None:
        store.close()
        model.module.eval()
        model.save(folder / "model")

    feed = Numbered(batch, f"cell-boxes {task} {run.seed} {run.batch_size}")
    module = nn.ModuleDict({"connector": connector, "head": head})
    return Task(module=module, objective=CellLoss(), feed=feed, finish=finish)


class CellLoss:
    """Cross-entropy of what covers a cell, and of the four sides of its box where something does."""

    def __call__(self, module: Any, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`batch`: (B, P, F) features, (B, P) names, (B, P, 4) sides as shares of the picture's."""
        features, names, sides = batch
        said = module["head"](module["connector"](features))  # (B, P, names + 1 + 4 · BINS)
        classes = said.shape[-1] - 4 * BINS
        what = F.cross_entropy(said[..., :classes].flatten(0, 1), names.flatten())
        there = names < classes - 1
        where = said[..., classes:][there].view(-1, 4, BINS)
        middles = (torch.arange(BINS) + 0.5) / BINS
        far = (sides[there][..., None] - middles) * BINS / SPREAD
        close = torch.softmax(-far.square() / 2, -1)
        boxes = -(close * where.log_softmax(-1)).sum(-1).mean()
        off = (middles[where.detach().argmax(-1)] - sides[there]).abs().mean()
        return {"loss": what + boxes, "what": what.detach(), "boxes": boxes.detach(), "off": off}

    def weight(self, batch: Any) -> float:
        """Every cell counts."""
        return float(batch[1].numel())

    def after_step(self, module: Any, step: int) -> None:
        """Nothing moves."""


def _names() -> list[str]:
    return [noun.name for noun in cast(100, "all")[0]]


def cell_targets(stage: Any, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a stage's cells should know: (P,) numbers of names, the last for nothing, and (P, 4) sides.

    A cell belongs to the thing whose middle it holds, otherwise to one whose box holds the cell's middle.
    """
    side, numbers = round(cells**0.5), {name: at for at, name in enumerate(_names())}
    names, sides = torch.full((cells,), len(numbers)), torch.zeros(cells, 4)
    width, height = stage.size
    boxes = [torch.tensor(stage.box(actor)) / torch.tensor((width, height, width, height)) for actor in stage.actors]
    middles = (torch.arange(side) + 0.5) / side
    for inside in (True, False):  # middles last: they win
        for actor, box in zip(stage.actors, boxes, strict=True):
            if inside:
                columns = ((middles >= box[0]) & (middles < box[2])).nonzero()[:, 0].tolist()
                rows = ((middles >= box[1]) & (middles < box[3])).nonzero()[:, 0].tolist()
            else:
                columns = [min(side - 1, int(side * (box[0] + box[2]) / 2))]
                rows = [min(side - 1, int(side * (box[1] + box[3]) / 2))]
            for cell in (row * side + column for row in rows for column in columns):
                names[cell], sides[cell] = numbers[actor.name], box
    return names, sides
