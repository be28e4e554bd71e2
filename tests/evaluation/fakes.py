"""A predictor that answers from what it is shown, in microseconds, and counts what it is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from chiasm.core.errors import ChiasmError, PromptError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.evaluation.protocol import Item, Items, Metric, Source, Task, each
from chiasm.evaluation.reading import yes_or_no
from chiasm.processing.pictures import read_picture


class Looker:
    """Says yes about bright pictures and no about dark ones; `blindness` makes it say yes always."""

    def __init__(self, *, blindness: bool = False, stop_after: int | None = None) -> None:
        self.name = "looker"
        self.capabilities = frozenset(("generate", "score", "embed"))
        self.blindness, self.stop_after, self.asked = blindness, stop_after, 0

    def generate(
        self, conversations: Sequence[Conversation], max_new_tokens: int
    ) -> Iterator[tuple[int, str | ChiasmError]]:
        for at, conversation in enumerate(conversations):
            try:
                yield at, self._reply(conversation)
            except ChiasmError as error:
                yield at, error

    def _reply(self, conversation: Conversation) -> str:
        self.asked += 1
        if self.stop_after is not None and self.asked > self.stop_after:
            raise KeyboardInterrupt
        text = conversation.messages[-1].text
        if "mumble" in text:
            return "hm <script>alert(1)</script>"
        if text == "refuse":
            raise PromptError("context_exceeded", "the prompt has 9 tokens, the model takes 8")
        source = next(conversation.images()).source
        bright = np.asarray(read_picture(source), dtype=float).mean() > 130
        return "Yes." if bright or self.blindness else "No."

    def score(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        return [[-float(len(answer))] for answer in answers]

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        rows = [np.asarray(read_picture(image).resize((2, 2)), dtype=float).ravel() for image in images]
        return np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        colours = [[int(part) for part in text.split("/")] * 4 for text in texts]
        return np.array([np.array(row) / np.linalg.norm(row) for row in colours], dtype=np.float32)

    def ground(self, image: Any, phrase: str) -> dict[str, Any]:
        raise AssertionError("it has no such capability")

    def locate(self, video: Any, query: str) -> list[list[float]]:
        raise AssertionError("it has no such capability")

    def seen(self, conversation: Conversation) -> list[Image.Image]:
        return [read_picture(part.source).resize((8, 8)) for part in conversation.images()]

    def length(self, conversation: Conversation) -> int:
        return len(conversation.messages[-1].text)

    def manifest(self) -> dict[str, Any]:
        return {"model": self.name, "weights": hashlib.blake2b(str(self.blindness).encode(), digest_size=4).hexdigest()}


def shade(level: int, size: int = 12) -> Image.Image:
    return Image.new("RGB", (size, size), (level, level, level))


def bright_items(count: int = 40, extra: Sequence[Item] = ()) -> Items:
    """Is it bright? Half are; levels differ from item to item."""
    items = []
    for at in range(count):
        level = 200 + at if at % 2 else 20 + at
        turn = Message("user", (ImagePart(shade(level)), TextPart(f"Is picture <b>{at}</b> bright?")))
        item = Item(
            key=f"q{at}",
            conversation=Conversation((turn,)),
            references=("yes" if at % 2 else "no",),
            kind="late" if at >= count // 2 else "early",
            group=f"g{at // 2}",
        )
        items.append(item)
    return Items(items=[*items, *extra], fingerprint="bright")


def bright_task(count: int = 40, extra: Sequence[Item] = (), **changes: Any) -> Task:
    from chiasm.evaluation.controls import frequent

    def load(source: Source) -> Items:
        found = bright_items(count, extra)
        return Items(items=found.items[: source.limit], fingerprint="bright")

    settings: dict[str, Any] = {
        "name": "bright",
        "about": "is it bright?",
        "way": "generate",
        "load": load,
        "parse": yes_or_no,
        "metrics": (Metric(name="accuracy", values=each(lambda item, answer: float(answer in item.references))),),
        "prior": frequent,
        "needs_folder": False,
    }
    return Task(**{**settings, **changes})
