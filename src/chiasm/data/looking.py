"""One row looked at as training will see it: every picture decoded once, the real processor run, no model."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from chiasm.core.errors import ChiasmError, DataError, PictureError, PromptError
from chiasm.core.messages import Conversation, ImagePart, Message, Part
from chiasm.core.samples import Dataset, Sample
from chiasm.data.prints import print_of
from chiasm.data.rows import blank, place_of
from chiasm.processing.pictures import encoded_picture, read_picture

LEAST_SIDE, MOST_RATIO = 16, 10
_BAD_CHARACTERS = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True, slots=True)
class Seen:
    """One picture: digests of its stored bytes and of where they stand, its print, and its (width, height)."""

    content: int
    source: int
    bits: int
    thumbnail: np.ndarray
    size: tuple[int, int]


@dataclass(slots=True)
class Look:
    """What a row is.

    Attributes:
        fault: (code, reason) of a row that can't be used.
        words: digest of all roles and texts, letters' case and white space evened out.
        asks: a user's turn holds text.
        pictures: every picture.
        tokens, visual, crops: of the prompt; 0 without a processor.
    """

    fault: tuple[str, str] | None = None
    words: int = 0
    asks: bool = False
    pictures: list[Seen] = field(default_factory=list)
    tokens: int = 0
    visual: int = 0
    crops: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Looker:
    """Looks at rows.

    Attributes:
        processor: the model's own; None checks what can be told without one.
        max_length: most tokens of a row; None = the processor's own limit.
        evaluation: rows end with the user's turn, and need teach nothing.
    """

    processor: Any = None
    max_length: int | None = None
    evaluation: bool = False

    def look(self, dataset: Dataset, index: int) -> Look:
        """Look at row `index`; never raises a `ChiasmError`."""
        look = Look()
        try:
            self._look(dataset[index], look)
        except ChiasmError as error:
            look.fault = (error.code, error.what.removeprefix(f"{place_of(dataset, index)}: "))
        except (
            MemoryError,
            RecursionError,
            ValueError,
            TypeError,
            LookupError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            # whatever a processor trips over is this row's fault, and must not end the look at all others
            look.fault = ("row_malformed", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
        return look

    def _look(self, sample: Sample, look: Look) -> None:
        messages = []
        for message in sample.conversation.messages:
            parts: list[Part] = []
            for part in message.parts:
                if isinstance(part, ImagePart):
                    picture, seen = _see(part.source)
                    look.pictures.append(seen)
                    part = ImagePart(picture)
                parts.append(part)
            messages.append(Message(message.role, tuple(parts)))
        conversation = Conversation(tuple(messages))
        places = (repr(sample.annotations[kind]) for kind in ("boxes", "points") if kind in sample.annotations)
        texts = [*(f"{m.role}:{m.text}" for m in messages), *sample.captions, *places]
        look.words = _digest(" ".join("\n".join(texts).lower().split()).encode("utf-8", "surrogatepass"))
        look.asks = any(m.role == "user" and m.text.strip() for m in messages)
        self._check_words(sample, messages)
        self._process(sample, conversation, look)
        for number, seen in enumerate(look.pictures):
            _check_shape(seen.size, number)

    def _check_words(self, sample: Sample, messages: list[Message]) -> None:
        texts = [*(message.text for message in messages), *sample.captions]
        for text in texts:
            if match := _BAD_CHARACTERS.search(text):
                what = f"character {match.start()} of {len(text)} is U+{ord(match.group()):04X}"
                raise DataError("text_characters", f"{what}, left by a wrong encoding")
        if any(blank(caption) for caption in sample.captions):
            raise DataError("caption_empty", "a caption holds no visible character")
        if self._learns(sample) and not any(m.role == "assistant" and not blank(m.text) for m in messages):
            turns = sum(message.role == "assistant" for message in messages)
            raise PromptError("labels_empty", f"the row has {turns} assistant turns, and 0 words to learn")

    def _learns(self, sample: Sample) -> bool:
        """Whether the row's own turns have to teach something; places are written out by each family's spelling."""
        answered = any(message.role == "assistant" for message in sample.conversation.messages)
        places = "points" in sample.annotations or sample.annotations.get("boxes")  # no points: none is there
        return not self.evaluation and (answered or not places)

    def _process(self, sample: Sample, conversation: Conversation, look: Look) -> None:
        if self.processor is None:
            return
        if not callable(self.processor):  # two towers: texts and pictures apart
            replies = [m.text for m in conversation.messages if m.role == "assistant" and m.text]
            batches = [self.processor.texts([text]) for text in sample.captions or replies[:1]]
            look.tokens = max((batch.input_ids.shape[1] for batch in batches), default=0)
            if look.pictures:
                images = self.processor.images([part.source for part in conversation.images()])
                look.crops = len(images.pixel_values)
        else:
            learns = self._learns(sample)
            batch = self.processor([conversation], add_generation_prompt=not learns, supervise=learns)
            look.tokens = int(batch.input_ids.shape[1])
            look.visual = sum(span.stop - span.start for span in batch.spans)
            look.crops = 0 if batch.pixel_values is None else len(batch.pixel_values)
            if learns and not bool((batch.labels != -100).any()):
                raise PromptError("labels_empty", f"the prompt has 0 supervised tokens of {look.tokens}")
        if self.max_length is not None and look.tokens > self.max_length:
            what = f"the prompt has {look.tokens} tokens ({look.visual} visual), the limit is {self.max_length}"
            raise PromptError("context_exceeded", what)


def _see(source: Any) -> tuple[Image.Image, Seen]:
    """Read a picture once: its bytes for the digest, its pixels for everything else."""
    data = encoded_picture(source)
    try:
        picture = read_picture(source if data is None else data)
    except PictureError as error:
        named = isinstance(source, str) and len(source) < 300 and not source.startswith("data:")
        name = source if named else getattr(source, "name", "the bytes")
        raise PictureError(error.code, error.what.replace("the bytes", name, 1), hint=error.hint) from None
    thumbnail, bits = print_of(picture)
    if data is None:
        fingerprint = getattr(source, "fingerprint", None)
        data = picture.tobytes() if fingerprint is None else str(fingerprint).encode()
    content = _digest(data)
    inline = isinstance(source, (bytes, bytearray)) or not isinstance(source, str) and not hasattr(source, "member")
    where = content if inline else _digest(repr(source).encode("utf-8", "surrogateescape"))
    return picture, Seen(content, where, bits, thumbnail, picture.size)


def _check_shape(size: tuple[int, int], number: int) -> None:
    width, height = size
    if min(size) < LEAST_SIDE:
        raise PictureError("picture_extreme", f"picture {number} measures {width}×{height}, a side under {LEAST_SIDE}")
    if max(size) > MOST_RATIO * min(size):
        ratio = max(size) / min(size)
        what = f"picture {number} measures {width}×{height}, {ratio:.1f} to 1, over {MOST_RATIO} to 1"
        raise PictureError("picture_extreme", what)


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
