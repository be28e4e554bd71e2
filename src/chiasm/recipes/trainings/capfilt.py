"""CapFilt's captioner: stored states of a frozen EfficientNet-Lite, and a BLIP decoder that learns captions."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F

from chiasm.core.batch import Batch
from chiasm.data.packs import load_pack
from chiasm.models.assembly import Parts
from chiasm.models.blip import Blip, BlipConfig, text
from chiasm.models.model import Model
from chiasm.nn.storage import narrow_type
from chiasm.objectives.captioning import IGNORED, answer_loss
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.recipes.capfilt import CaptionPack
from chiasm.recipes.run import Run
from chiasm.recipes.running.building import assemble
from chiasm.recipes.running.task import Task
from chiasm.recipes.trainings.nano_dual import view_features
from chiasm.training.feed import Numbered
from chiasm.vision.conv_grid import ConvGrid, ConvGridConfig
from chiasm.weights.frozen import efficientnet_lite

CONTEXT = 48  # tokens of a caption


def captions(task: CaptionPack, run: Run, out: Path) -> Task:
    """The decoder's training."""
    pictures = [each for each in load_pack(task.pack) if each.split in task.splits and each.readable]
    said = [" ".join(picture.caption.split()).lower() for picture in pictures]
    model = captioner(task, said, run.seed)
    module, processor = cast(Blip, model.module), model.processor
    half = copy.deepcopy(cast(ConvGrid, module.vision)).to(narrow_type())
    shape = (1 + half.config.grid**2, half.config.hidden_dim)
    description: dict[str, object] = {
        "pack": task.pack, "splits": list(task.splits), "views": task.views, "tower": task.tower, "kind": "states",
    }  # fmt: skip
    folder = Path(task.features or out / "features")
    features = view_features(pictures, task.views, half.states, shape, half.net, folder, description)
    told = [[*processor.tokenizer.encode(text, first=False), processor.end_id][: CONTEXT - 1] for text in said]

    def batch(number: int) -> Batch:
        generator = torch.Generator().manual_seed(run.seed * 7919 + number)
        chosen = torch.randint(len(pictures), (run.batch_size,), generator=generator)
        views = chosen * task.views + torch.randint(task.views, chosen.shape, generator=generator)
        return _written(processor, [told[row] for row in chosen.tolist()], features[views].float())

    def loss(learned: torch.nn.Module, given: Batch) -> dict[str, torch.Tensor]:
        labels, states = given.labels, given.features
        assert labels is not None and states is not None
        given = replace(given, features=F.dropout(states, task.drop, learned.training))
        return {"loss": answer_loss(module.hidden(given), labels, module.scores)}

    module.vision.requires_grad_(False)
    assert module.lm_head is not None
    learned = torch.nn.ModuleDict({"language": module.language, "lm_head": module.lm_head})
    feed = Numbered(batch, f"captions {task} {len(pictures)} {run.seed} {run.batch_size}")
    return Task(module=learned, objective=loss, feed=feed, finish=lambda out: model.save(out / "model"))


def captioner(task: CaptionPack, said: list[str], seed: int) -> Model:
    """A captioner over the words of some captions; its decoder is new."""
    tokenizer, net = tiny_tokenizer("bert", corpus=said), efficientnet_lite(task.tower)
    start = len(tokenizer)
    tokenizer.add_control("[DEC]")
    vision = ConvGridConfig(net=net.config)
    language = text(len(tokenizer), task.hidden_dim, task.num_layers, vision.hidden_dim)
    config = BlipConfig(
        vision=vision, language=replace(language, context_length=CONTEXT), encoder=False, decoder=True, embed_dim=None,
        start_id=start,
    )  # fmt: skip
    return assemble("blip", config, Parts(tokenizer), seed=seed, frozen={"vision.net": net})


def _written(processor: Any, rows: list[list[int]], features: torch.Tensor) -> Batch:
    """Captions after their start, padded on the right, every word and the end supervised."""
    ids = torch.full((len(rows), 1 + max(map(len, rows))), processor.tokenizer.pad_id)  # (B, T)
    labels = torch.full_like(ids, IGNORED)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens) + 1] = torch.tensor([processor.start_id, *tokens])
        labels[row, 1 : len(tokens) + 1] = torch.tensor(tokens)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(tokens) + 1 for tokens in rows])[:, None]
    return Batch(input_ids=ids, attention_mask=mask, labels=labels, features=features)
