"""What `curate` computes of rows: captions written, and captions judged; rows fail one by one, never their neighbours.

Both are sent to other processes, so they hold plain values and open the data there. Items and results are JSON texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from chiasm.cli.bulk import caption_prompt
from chiasm.cli.data import Opening
from chiasm.core.errors import ChiasmError, DataError, PictureError, PromptError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Dataset, Sample
from chiasm.data.curation import score_of
from chiasm.data.rows import place_of
from chiasm.data.writing import pair_of

if TYPE_CHECKING:
    from PIL import Image

    from chiasm.models.model import Model

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """The data that both stages look at.

    Attributes:
        spec, opening: what is opened, and how.
    """

    spec: str
    opening: Opening

    def open(self) -> Dataset:
        """The data set, opened once a process."""
        return _opened(self.spec, self.opening)


@cache
def _opened(spec: str, opening: Opening) -> Dataset:
    return opening.open(spec, wordless=True)  # what has no caption is given one


@dataclass(frozen=True, slots=True)
class Written:
    """Each row's own captions, and one that the model writes.

    Attributes:
        rows: the data.
        prompt: what the model is asked; None: see `caption_prompt`.
        settings: of `Model.generate`.
        seed: of the sampling; each row has one of its own that follows from it.
    """

    rows: Rows
    prompt: str | None
    settings: dict[str, Any]
    seed: int

    def __call__(self, model: Model, items: list[str]) -> list[Any]:
        """Row numbers → ``key``, ``place``, ``originals``, ``synthetic``; or ``code`` and ``reason``."""
        prompt = caption_prompt(model) if self.prompt is None else self.prompt
        dataset, told = self.rows.open(), []
        readable: list[tuple[Answer, Image.Image, int]] = []
        for row in map(int, items):
            place = place_of(dataset, row)
            answer: Answer = {"key": "", "place": [place.source, place.row]}
            told.append(answer)
            try:
                sample = dataset[row]
                answer["key"] = sample.key
                answer["originals"], picture = captions_of(sample), picture_of(sample)
            except ChiasmError as error:
                answer |= _fault(error)
            else:
                readable.append((answer, picture, row_seed(self.seed, row)))

        def write(some: Sequence[tuple[Answer, Image.Image, int]]) -> list[Answer]:
            words = (TextPart(prompt),) if prompt else ()
            talks = [Conversation((Message("user", (ImagePart(picture), *words)),)) for _, picture, _ in some]
            replies = model.generate(talks, seed=[seed for *_, seed in some], **self.settings)
            return [{"synthetic": " ".join(reply.text.split())} for reply in replies]

        for (answer, *_), written in zip(readable, apart_if_needed(write, readable), strict=True):
            answer |= written
            if "synthetic" in written and written["synthetic"].casefold() in map(str.casefold, answer["originals"]):
                answer["synthetic"] = ""  # nothing new
        return [json.dumps(answer, ensure_ascii=False) for answer in told]


@dataclass(frozen=True, slots=True)
class Judged:
    """Each row's captions scored.

    Attributes:
        rows: the data.
        by: ``match`` or ``cosine``.
        truncate: the filter reads the beginning of captions that are longer than it takes.
    """

    rows: Rows
    by: str
    truncate: bool

    def __call__(self, model: Model, items: list[str]) -> list[Any]:
        """JSON of [row, texts] → ``scores`` and for cosines a ``wrong`` pair's; or ``code`` and ``reason``."""
        dataset = self.rows.open()
        asked = [json.loads(item) for item in items]

        def judge(some: Sequence[tuple[int, list[str]]]) -> list[Answer]:
            pictures = [picture_of(dataset[row]) for row, _ in some]
            return (self._match if self.by == "match" else self._cosine)(model, pictures, [texts for _, texts in some])

        return [json.dumps(answer, ensure_ascii=False) for answer in apart_if_needed(judge, asked)]

    def _match(self, model: Model, pictures: list[Image.Image], texts: list[list[str]]) -> list[Answer]:
        images = [picture for picture, own in zip(pictures, texts, strict=True) for _ in own]
        flat = [text for own in texts for text in own]
        scores = iter(model.match(images, flat, truncate=self.truncate).tolist() if flat else [])
        return [{"scores": [score_of(next(scores)) for _ in own]} for own in texts]

    def _cosine(self, model: Model, pictures: list[Image.Image], texts: list[list[str]]) -> list[Answer]:
        flat = [text for own in texts for text in own]
        if not flat:
            return [{"scores": [], "wrong": None} for _ in texts]
        images, words = model.embed_images(pictures), model.embed_texts(flat, truncate=self.truncate)
        scores = (images @ words.T).tolist()
        answers, start = [], 0
        for row, own in enumerate(texts):
            other = (start + len(own)) % len(flat)  # the next row's first caption
            wrong = None if flat[other] in own else score_of(scores[row][other])
            kept = [score_of(score) for score in scores[row][start : start + len(own)]]
            answers.append({"scores": kept, "wrong": wrong})
            start += len(own)
        return answers


def captions_of(sample: Sample) -> list[str]:
    """A pair's captions in one line each, blank and repeated ones left out; a picture may have none.

    Raises:
        DataError: the row isn't one picture with captions.
    """
    pair = pair_of(sample)
    if pair is None or len(pair.pictures) != 1 or pair.question.strip():
        raise DataError("curate_unfit", f"{sample.place}: not one picture with captions, which is all that is curated")
    texts = sample.captions or ([] if pair.reply is None else [pair.reply])
    lines = (" ".join(text.split()) for text in texts)
    return list(dict.fromkeys(line for line in lines if line))


def picture_of(sample: Sample) -> Image.Image:
    """A pair's picture, decoded; raises a `PictureError` for one that can't be."""
    from chiasm.processing.pictures import read_picture

    return read_picture(next(sample.conversation.images()).source)


def row_seed(seed: int, row: int) -> int:
    """A row's own seed: rows that share one would draw alike."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {row}".encode(), digest_size=6).digest(), "little")


def apart_if_needed(compute: Callable[[Sequence[Any]], list[Answer]], rows: Sequence[Any]) -> list[Answer]:
    """Compute rows together; where one of them can't be, each by itself, and faults in place of those that can't."""
    if not rows:
        return []
    try:
        return compute(rows)
    except (PromptError, PictureError, DataError) as error:
        if len(rows) == 1:
            return [_fault(error)]
        return [answer for row in rows for answer in apart_if_needed(compute, [row])]


def _fault(error: ChiasmError) -> Answer:
    return {"code": error.code, "reason": error.what}
