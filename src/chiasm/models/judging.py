"""What `Model` does for families that judge rather than write: match, choose among answers, show by a heat map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.errors import ChiasmError, PromptError
from chiasm.core.messages import Conversation
from chiasm.core.plan import ImagePlan
from chiasm.core.protocols import Answering, Generative, Heating, Matching
from chiasm.core.replies import Grounding, Region, Reply, Score, Usage
from chiasm.nn.storage import number_type
from chiasm.processing.fusion import FusionProcessor, same_picture
from chiasm.processing.processor import Processor
from chiasm.processing.tokenizer import Tokenizer

CHUNK = 16  # pairs a forward pass


@torch.inference_mode()
def match_pairs(
    module: Matching,
    processor: FusionProcessor,
    images: Sequence[Any],
    texts: Sequence[str],
    device: torch.device,
    *,
    truncate: bool = False,
) -> torch.Tensor:
    """(N,) probability that picture n and text n belong together; one picture or one text stands for all.

    A picture that stands in several pairs, one after the other, goes through the tower once.

    Raises:
        PromptError: nothing given, or counts that don't pair up.
    """
    images, texts = list(images), list(texts)
    if not images or not texts:
        raise PromptError("nothing_to_match", f"{len(images)} pictures and {len(texts)} texts given")
    images = images * len(texts) if len(images) == 1 else images
    texts = texts * len(images) if len(texts) == 1 else texts
    if len(images) != len(texts):
        raise PromptError("pair_count", f"{len(images)} pictures, {len(texts)} texts; pairs need as many of each")
    parts: list[torch.Tensor] = []
    known: dict[Any, torch.Tensor] = {}
    shape: torch.Size | None = None
    for at in range(0, len(images), CHUNK):
        some = images[at : at + CHUNK]
        batch = processor.pairs(some, texts[at : at + CHUNK], truncate=truncate).to(device, number_type(module))
        assert batch.pixel_values is not None
        if len(batch.pixel_values) == len(some):
            names = [same_picture(image) for image in some]
            known = known if batch.pixel_values.shape[1:] == shape else {}
            shape = batch.pixel_values.shape[1:]
            known = _features(module, batch.pixel_values, names, known)
            batch = replace(batch, features=torch.stack([known[name] for name in names]), pixel_values=None)
        parts.append(module.match_logits(batch).float().sigmoid().cpu())
    return torch.cat(parts)


def _features(
    module: Any, pixels: torch.Tensor, names: Sequence[Any], known: dict[Any, torch.Tensor]
) -> dict[Any, torch.Tensor]:
    """The tower's features of each different picture of a chunk, those that are known taken over."""
    rows = {name: row for row, name in reversed(list(enumerate(names)))}
    found = {name: known[name] for name in rows if name in known}
    fresh = [name for name in rows if name not in found]
    if fresh:
        found.update(zip(fresh, module.visual_features(pixels[[rows[name] for name in fresh]]), strict=True))
    return found


@torch.inference_mode()
def choose_answers(module: Answering, batch: Batch) -> list[Reply]:
    """The likeliest of a classifier's answers for each row, as a reply whose only token is the answer's number."""
    logs = _answer_logs(module, batch)
    best = logs.argmax(-1).tolist()
    replies = []
    for row, answer in enumerate(best):
        assert batch.attention_mask is not None
        usage = Usage(int(batch.attention_mask[row].sum()), 1)
        replies.append(Reply(module.answers[answer], (answer,), (logs[row, answer].item(),), "stop", usage))
    return replies


@dataclass(frozen=True, slots=True)
class Choosing:
    """Conversations answered by a classifier.

    Attributes:
        module, processor, device: the model's.
        batch_size: conversations a forward pass.
    """

    module: Answering
    processor: FusionProcessor
    device: torch.device
    batch_size: int

    def all(self, given: Sequence[Conversation]) -> list[Reply]:
        """The reply to each."""
        parts = [given[at : at + self.batch_size] for at in range(0, len(given), self.batch_size)]
        ready = (self.processor(part).to(self.device) for part in parts)
        return [reply for batch in ready for reply in choose_answers(self.module, batch)]

    def each(self, given: Sequence[Conversation]) -> Iterator[tuple[int, Reply | Exception]]:
        """The number of each and its reply, or why there is none: one at fault costs the others nothing."""
        for at in range(0, len(given), self.batch_size):
            part = given[at : at + self.batch_size]
            try:
                yield from enumerate(self.all(part), at)
            except ChiasmError as error:
                if self.batch_size == 1:
                    yield at, error
                else:
                    yield from ((at + own, reply) for own, reply in replace(self, batch_size=1).each(part))


@torch.inference_mode()
def score_answer(module: Answering, batch: Batch, answer: str) -> Score:
    """Log-probability of one of the known answers, for a batch of one row.

    Raises:
        PromptError: the classifier doesn't know the answer.
    """
    if answer not in module.answers:
        raise PromptError(
            "answer_unknown", f"{answer!r} is none of the {len(module.answers)} answers that this model chooses among"
        )
    number = list(module.answers).index(answer)
    return Score((number,), (_answer_logs(module, batch)[0, number].item(),))


@torch.inference_mode()
def score_reply(module: Any, tokenizer: Tokenizer, batch: Batch, text: str) -> Score:
    """Likelihood of one text as the reply to one prepared conversation; the batch is left as it is.

    Raises:
        PromptError: the text has no token, or isn't among the answers of a family that chooses.
    """
    if isinstance(module, Answering):
        return score_answer(module, batch, text)
    ids = tokenizer.encode(text, first=False)
    if not ids:
        raise PromptError("answer_empty", "an answer has no token to score")
    assert batch.input_ids is not None
    tail = torch.tensor([ids], device=batch.input_ids.device)
    whole = replace(batch, input_ids=torch.cat((batch.input_ids, tail), 1), attention_mask=None)
    logs = module(whole)[0, -len(ids) - 1 : -1].float().log_softmax(-1)
    return Score(tuple(ids), tuple(logs[torch.arange(len(ids)), tail[0]].tolist()))


@torch.inference_mode()
def score_replies(
    module: Any, processor: Processor, conversations: Sequence[Conversation], texts: Sequence[str], device: torch.device
) -> list[Score]:
    """Likelihood of texts, each as the reply to its conversation; a single conversation stands for all.

    Raises:
        PromptError: counts disagree, or as for `score_reply`.
    """
    conversations = list(conversations)
    if len(conversations) == 1:
        conversations = conversations * len(texts)
    if len(conversations) != len(texts):
        raise PromptError("answer_count", f"{len(conversations)} conversations, {len(texts)} answers")
    prepared: dict[int, Batch] = {}
    for conversation in conversations:
        if id(conversation) not in prepared:
            prepared[id(conversation)] = seen(module, processor([conversation]).to(device))
    return [
        score_reply(module, processor.tokenizer, prepared[id(conversation)], text)
        for conversation, text in zip(conversations, texts, strict=True)
    ]


@torch.inference_mode()
def seen(module: nn.Module, batch: Batch) -> Batch:
    """The batch with its tower's features in place of crops, so that several answers are read beside them."""
    pixels, see = batch.pixel_values, getattr(module, "visual_features", None)
    if pixels is None or see is None or pixels.dim() != 4 or not isinstance(module, Generative):
        return batch
    return replace(batch, features=see(pixels.to(number_type(module))), pixel_values=None)


def _answer_logs(module: Answering, batch: Batch) -> torch.Tensor:
    logits = module.answer_logits(batch).float()
    return logits.log_softmax(-1) if module.exclusive else F.logsigmoid(logits)


def ground_phrase(
    module: Heating, processor: FusionProcessor, image: Any, phrase: str, device: torch.device
) -> Grounding:
    """Find a phrase by the heat map of its match.

    Args:
        module: what shows where a text is.
        processor: its own.
        image: any picture source.
        phrase: what to look for.
        device: where the module is.

    Returns:
        One region: the peak, and the box of what is connected to it above half of it; and the heat map.
    """
    assert processor.image_processor is not None
    picture = processor.image_processor.read(image)
    batch = processor.pairs([picture], [phrase]).to(device)
    with torch.enable_grad():
        heat = module.heat(batch)[0].float()
    probability = 1.0
    if isinstance(module, Matching):
        with torch.inference_mode():
            probability = module.match_logits(batch)[0].float().sigmoid().item()
    heat = heat / heat.max() if heat.max() > 0 else heat
    box, point = _peak(heat, batch.plans[0])
    return Grounding((Region(box, point, probability, phrase),), picture.size, heat.detach().cpu().numpy())


def _peak(heat: torch.Tensor, plan: ImagePlan) -> tuple[tuple[float, float, float, float], tuple[float, float]]:
    rows, columns = heat.shape
    width, height = plan.crops[0].size
    step_x, step_y = width / columns, height / rows
    y, x = divmod(int(heat.argmax()), columns)
    warm, seen, todo = heat >= 0.5 * heat.max(), {(y, x)}, [(y, x)]
    while todo:
        row, column = todo.pop()
        for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = 0 <= near[0] < rows and 0 <= near[1] < columns
            if inside and near not in seen and bool(warm[near]):
                seen.add(near)
                todo.append(near)
    top, left = min(r for r, _ in seen), min(c for _, c in seen)
    bottom, right = max(r for r, _ in seen) + 1, max(c for _, c in seen) + 1
    x0, y0 = _inside(plan, left * step_x, top * step_y)
    x1, y1 = _inside(plan, right * step_x, bottom * step_y)
    return (x0, y0, x1, y1), _inside(plan, (x + 0.5) * step_x, (y + 0.5) * step_y)


def _inside(plan: ImagePlan, x: float, y: float) -> tuple[float, float]:
    x, y = plan.to_source(x, y)
    return min(max(x, 0.0), float(plan.source[0])), min(max(y, 0.0), float(plan.source[1]))


def heat_picture(grounding: Grounding, picture: Image.Image) -> Image.Image:
    """A grounding's heat over its picture: red where the phrase is.

    Args:
        grounding: with a heat map.
        picture: the one that was looked at.

    Returns:
        A new RGB picture of the same size.
    """
    levels = Image.fromarray((np.asarray(grounding.heat) * 255).astype(np.uint8)).resize(picture.size, 2)
    red = Image.new("RGB", picture.size, (255, 32, 0))
    return Image.composite(red, picture.convert("RGB"), levels.point([round(0.65 * level) for level in range(256)]))


def check_labels(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Refuse labels and templates that zero-shot classification can't work with.

    Raises:
        PromptError: no labels, a label given twice, a template without ``{}``.
    """
    if not labels:
        raise PromptError("labels_empty", "0 labels given, at least 1 needed", hint="--labels cat,dog")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        times = labels.count(twice)
        raise PromptError("label_twice", f"label {twice!r} is given {times} times, each must be given once")
    for template in templates:
        if "{}" not in template:
            raise PromptError("template_slot", f"template {template!r} has 0 slots, it needs {{}} for the label")
