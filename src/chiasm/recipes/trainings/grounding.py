"""The connector's training of the pico recipe that learns boxes: what is said of each cell, and where its box lies.

A cell's token, read by the language model's own output layer, is to say the words by which a thing is asked for. So
words and cells meet in one space before the language model reads anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.messages import Conversation, ImagePart, Message
from chiasm.data.named import open_named
from chiasm.data.worlds.tasks.grounding import named
from chiasm.recipes.run import Run
from chiasm.recipes.running.task import Task
from chiasm.training.features import frozen_features
from chiasm.training.feed import Numbered

if TYPE_CHECKING:
    from chiasm.recipes.grounding import CellBoxes

BINS = 100  # classes of a side
SPREAD = 1.0  # bins: a neighbouring class is nearly right
GLUE = {"at", "on", "in", "the"}  # words of every place
MOST_WORDS = 8  # of one thing: name, colour, place, size


def cell_boxes(task: CellBoxes, run: Run, out: Path) -> Task:
    """The training, put together: features from a store, targets from the stages themselves."""
    model = task.model.build(run.family, run.seed)
    model.module.requires_grad_(False)
    store = frozen_features(model.module, model.processor, out / "features", dtype="float16")
    assert store is not None
    torch.manual_seed(run.seed)
    connector = model.module.get_submodule("connector").requires_grad_(True)
    language: Any = model.module.get_submodule("language")
    language.embed_tokens.requires_grad_(True)
    cells, encode = model.config.connector.num_positions, model.processor.tokenizer.encode
    head = nn.Linear(task.model.hidden_dim, 4 * BINS)
    data, processor = open_named(task.scenes), store.processor
    per_epoch = -(-len(data) // run.batch_size)

    @cache
    def target(row: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
        stage = next(iter(data[row].conversation.images())).source
        return (stage, *cell_targets(stage, cells, encode))

    def batch(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        epoch, at = divmod(number, per_epoch)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(run.seed + epoch)).tolist()
        rows = order[at * run.batch_size : (at + 1) * run.batch_size]
        stages, words, sides = zip(*(target(row) for row in rows), strict=True)
        shown = [Conversation((Message("user", (ImagePart(stage),)),)) for stage in stages]
        features = store.fill(processor(shown)).features
        assert features is not None
        return features, torch.stack(words), torch.stack(sides)

    def finish(folder: Path) -> None:
        store.close()
        model.module.eval()
        model.save(folder / "model")

    feed = Numbered(batch, f"cell-boxes {task} {run.seed} {run.batch_size}")
    module = nn.ModuleDict({"connector": connector, "language": Speaking(language), "head": head})
    return Task(module=module, objective=CellLoss(), feed=feed, finish=finish)


class Speaking(nn.Module):
    """A language model's output layer alone, over its input embeddings.

    Args:
        language: a decoder with tied embeddings.
    """

    def __init__(self, language: Any) -> None:
        super().__init__()
        self.norm, self.embed_tokens = language.norm, language.embed_tokens

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(…, D) tokens → (…, V) logits."""
        return F.linear(self.norm(tokens), self.embed_tokens.weight)


class CellLoss:
    """Cross-entropy of the words said of a cell, and of the four sides of its box where something does."""

    def __call__(self, module: Any, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`batch`: (B, P, F) features, (B, P, W) words, (B, P, 4) sides, the picture's being 1."""
        features, words, sides = batch
        tokens = module["connector"](features)  # (B, P, D)
        said, spoken = module["language"](tokens).log_softmax(-1), words >= 0
        each = said.gather(-1, words.clamp(min=0)).masked_fill(~spoken, 0.0).sum(-1)
        what = -(each / spoken.sum(-1)).mean()
        there = words[..., 0] > 0
        where = module["head"](tokens[there]).view(-1, 4, BINS)
        middles = (torch.arange(BINS) + 0.5) / BINS
        far = (sides[there][..., None] - middles) * BINS / SPREAD
        close = torch.softmax(-far.square() / 2, -1)
        boxes = -(close * where.log_softmax(-1)).sum(-1).mean()
        off = (middles[where.detach().argmax(-1)] - sides[there]).abs().mean()
        named = (said.detach()[there].argmax(-1)[:, None] == words[there]).any(-1).float().mean()
        return {"loss": what + boxes, "what": what.detach(), "named": named, "boxes": boxes.detach(), "off": off}

    def weight(self, batch: Any) -> float:
        """Every cell counts."""
        return float(batch[1].numel())

    def after_step(self, module: Any, step: int) -> None:
        """Nothing moves."""


def cell_targets(stage: Any, cells: int, encode: Callable[[str], Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a stage's cells should know: (P, `MOST_WORDS`) ids of words, and (P, 4) sides.

    A cell belongs to the thing whose middle it holds, otherwise to one whose box holds the cell's middle. Its words are
    those of the phrases that name the thing; behind the last stands −1, and a cell of nothing says token 0.
    """
    side = round(cells**0.5)
    words, sides = torch.full((cells, MOST_WORDS), -1), torch.zeros(cells, 4)
    words[:, 0] = 0
    width, height = stage.size
    boxes = [torch.tensor(stage.box(actor)) / torch.tensor((width, height, width, height)) for actor in stage.actors]
    said = [_words(stage, actor, encode) for actor in stage.actors]
    middles = (torch.arange(side) + 0.5) / side
    for inside in (True, False):  # middles last: they win
        for spoken, box in zip(said, boxes, strict=True):
            if inside:
                columns = ((middles >= box[0]) & (middles < box[2])).nonzero()[:, 0].tolist()
                rows = ((middles >= box[1]) & (middles < box[3])).nonzero()[:, 0].tolist()
            else:
                columns = [min(side - 1, int(side * (box[0] + box[2]) / 2))]
                rows = [min(side - 1, int(side * (box[1] + box[3]) / 2))]
            for cell in (row * side + column for row in rows for column in columns):
                words[cell], sides[cell] = spoken, box
    return words, sides


def _words(stage: Any, actor: Any, encode: Callable[[str], Any]) -> torch.Tensor:
    """(`MOST_WORDS`,) ids of the words by which a thing is asked for, its name's first."""
    phrases = [phrase for phrase, named_by in named(stage) if any(one is actor for one in named_by)]
    words = dict.fromkeys(word for phrase in phrases for word in phrase.split() if word not in GLUE)
    ids = list(dict.fromkeys(i for word in words for i in encode(f" {word}")))[:MOST_WORDS]
    return torch.tensor(ids + [-1] * (MOST_WORDS - len(ids)))
