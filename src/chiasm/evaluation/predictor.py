"""`ModelPredictor`: a loaded model behind the `Predictor` protocol."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from chiasm.core.errors import ChiasmError
from chiasm.core.messages import Conversation, ImagePart, VideoPart
from chiasm.processing.pictures import read_picture

if TYPE_CHECKING:
    from PIL import Image

PACKAGES = ("chiasm", "torch", "numpy", "pillow", "tokenizers")


class ModelPredictor:
    """A model with the public methods of `chiasm.load`'s.

    Args:
        model: anything with `generate`, `score`, `embed_images`, … for its capabilities.
        batch_size: conversations that are asked at once; no answer depends on it.
    """

    def __init__(self, model: Any, batch_size: int = 8) -> None:
        self.model, self.batch_size = model, batch_size
        self.name: str = model.name
        self.capabilities = frozenset(model.capabilities)

    def generate(
        self, conversations: Sequence[Conversation], max_new_tokens: int
    ) -> Iterator[tuple[int, str | ChiasmError]]:
        """Greedy replies, as they are done."""
        for at, reply in self.model.answers(conversations, max_new_tokens, self.batch_size):
            if isinstance(reply, Exception) and not isinstance(reply, ChiasmError):
                raise reply
            yield at, reply if isinstance(reply, ChiasmError) else reply.text

    def score(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of each answer's tokens."""
        return [list(score.logprobs) for score in self.model.score(list(conversations), list(answers))]

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        """(N, E) float32."""
        return self.model.embed_images(list(images)).numpy()

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, E) float32; texts that are longer than the tower takes are cut, as retrieval benchmarks do."""
        return self.model.embed_texts(list(texts), truncate=True).numpy()

    def match(self, images: Sequence[Any], texts: Sequence[str]) -> list[float]:
        """Probabilities; texts that are longer than the model takes are cut, as retrieval benchmarks do."""
        return self.model.match(list(images), list(texts), truncate=True).tolist()

    def similarity_scale(self) -> float:
        """What cosines are multiplied by in the softmax of a model that embeds and matches."""
        scale = self.model.module.similarity_scale
        return float(scale.detach() if hasattr(scale, "detach") else scale)

    def ground(self, image: Any, phrase: str) -> dict[str, Any]:
        """``boxes`` and ``points``, as plain numbers."""
        regions = self.model.ground(image, phrase).regions
        return {
            "boxes": [[float(value) for value in region.box] for region in regions if region.box is not None],
            "points": [[float(value) for value in region.point] for region in regions if region.point is not None],
        }

    def locate(self, video: Any, query: str) -> list[list[float]]:
        """(start, end), as plain numbers."""
        found = self.model.locate(video, query)
        return [[float(value) for value in getattr(span, "span", span)][:2] for span in found]

    def seen(self, conversation: Conversation) -> list[Image.Image]:
        """Every picture's crops, side by side where there are several."""
        pictures = self.model.processor.image_processor
        shown = []
        for part in conversation.images():
            crops, _ = pictures.pixels([pictures.read(part.source)])
            shown += [pictures.as_seen(crop) for crop in crops]
        return shown

    def length(self, conversation: Conversation) -> int:
        """Pictures weigh more than any text."""
        parts = [part for message in conversation.messages for part in message.parts]
        words = sum(len(message.text) for message in conversation.messages)
        return 100_000 * sum(isinstance(part, (ImagePart, VideoPart)) for part in parts) + words

    def manifest(self) -> dict[str, Any]:
        """What decides an answer, but for the data and the task."""
        processor = self.model.processor
        pictures = getattr(processor, "image_processor", None)
        template = getattr(processor, "template", None)
        tensors = self.model.module.state_dict()
        return {
            "model": self.name,
            "family": self.model.family.name,
            "weights": weights_digest(tensors),
            "parameters": sum(tensor.numel() for tensor in self.model.module.parameters()),
            "dtype": str(next(self.model.module.parameters()).dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "pictures": None if pictures is None else _plain(pictures.to_config()),
            "tokens": len(processor.tokenizer),
            "template": template,
            "decoding": {"temperature": 0.0, "num_beams": 1},
            "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
        }


def weights_digest(tensors: Any) -> str:
    """A digest of names, types, shapes and values of a state dict, in the order of names."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(_bytes()).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8


def picture_key(source: Any) -> str:
    """A short key of what a picture, video or array shows: equal sources give equal keys, without drawing lazy ones."""
    fingerprint = getattr(source, "fingerprint", None)
    if isinstance(fingerprint, str):
        return fingerprint[:32]
    from chiasm.processing.pictures import encoded_picture

    if source is None:
        return "none"
    data = encoded_picture(source)
    if data is None:
        picture = read_picture(source)
        data = f"{picture.size}".encode() + picture.tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "source"
