"""Controls: the same questions without the picture, with another picture, and answered from frequencies alone.

- *blind*: every picture is replaced by the mean of the task's own pictures. The model is used exactly as always (same
  prompt, same number of tokens), and learns nothing about the one picture that was asked about.
- *swapped*: every picture is replaced by another item's. A model that looks at pictures gets worse than without one.
- *prior*: no model at all; the most frequent reference of each kind of question, for every question.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import ChiasmError, PictureError
from chiasm.core.messages import Conversation, ImagePart, VideoPart
from chiasm.data.stamps import file_digest
from chiasm.evaluation.predictor import picture_key
from chiasm.evaluation.protocol import Item
from chiasm.processing.pictures import read_picture

if TYPE_CHECKING:
    from PIL import Image

CONDITIONS = ("seen", "blind", "swapped")
SAMPLED, SIDE = 64, 224


def mean_picture(sources: Sequence[Any], most: int = SAMPLED) -> Image.Image:
    """The mean of the first `most` pictures, those that can be read, as a square; grey where there is none."""
    import numpy as np
    from PIL import Image

    total, count = np.zeros((SIDE, SIDE, 3)), 0
    for source in sources[:most]:
        try:
            picture = source.frame(0.0) if hasattr(source, "frame") else read_picture(source)
        except ChiasmError:
            continue
        total, count = total + np.asarray(picture.resize((SIDE, SIDE)), dtype=np.float64), count + 1
    mean = total / count if count else np.full((SIDE, SIDE, 3), 127.0)
    return Image.fromarray(mean.round().astype(np.uint8))


def partners(keys: Sequence[str]) -> list[int]:
    """For each item, another whose picture differs: drawn by chance, the same for the same number of items.

    Args:
        keys: the picture of each item.

    Returns:
        One index an item; an item's own where all pictures are alike.
    """
    count, found = len(keys), []
    for at in range(count):
        # not a fixed distance: data sets often go round in kinds and answers
        start = random.Random(f"{count} {at}").randrange(count)
        offsets = ((start + step) % count for step in range(count))
        found.append(next((other for other in offsets if keys[other] != keys[at]), at))
    return found


def with_pictures(conversation: Conversation, pictures: Sequence[Any]) -> Conversation:
    """The same conversation with its pictures and videos replaced in turn, the last one kept for those that remain."""
    left = list(pictures)

    def change(part: Any) -> Any:
        if not isinstance(part, (ImagePart, VideoPart)):
            return part
        source = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(part, VideoPart) and not hasattr(source, "frame") and not isinstance(source, (str, list)):
            return VideoPart([source] * 8, 1.0)
        return replace(part, source=source) if isinstance(part, VideoPart) else ImagePart(source)

    messages = (replace(message, parts=tuple(map(change, message.parts))) for message in conversation.messages)
    return Conversation(tuple(messages))


def parts_of(conversation: Conversation) -> list[ImagePart | VideoPart]:
    """Every picture and video of a conversation, in order."""
    return [
        part for message in conversation.messages for part in message.parts if isinstance(part, (ImagePart, VideoPart))
    ]


def pictures_of(conversation: Conversation) -> list[Any]:
    """The sources of every picture and video of a conversation, in order."""
    return [part.source for part in parts_of(conversation)]


def media_key(part: ImagePart | VideoPart) -> str:
    """A short key of what a picture or video shows; pictures in files are decoded, so that broken ones are met here.

    Raises:
        ChiasmError: it can't be read.
    """
    source = part.source
    if isinstance(getattr(source, "fingerprint", None), str):
        return picture_key(source)
    if isinstance(part, ImagePart):
        key = picture_key(source)
        read_picture(source)
        return key
    if isinstance(source, (list, tuple)):
        return " ".join(picture_key(frame) for frame in source)
    try:
        return file_digest(Path(source))
    except OSError as error:
        raise PictureError("video_missing", f"{source}: {error.strerror}") from None


def frequent(items: Sequence[Item]) -> list[str]:
    """For each item, the most frequent first reference of its kind of question; of equals, the alphabet's first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        if item.references:
            counts[item.kind][item.references[0]] += 1
    best = {kind: min(found, key=lambda text: (-found[text], text)) for kind, found in counts.items()}
    return [best.get(item.kind, "") for item in items]
