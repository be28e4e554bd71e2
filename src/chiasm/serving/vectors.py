"""Embeddings and zero-shot classification over HTTP."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import ConfigError
from chiasm.serving import schemas

if TYPE_CHECKING:
    from chiasm.models.model import Model

MOST_TEXTS = 5_000  # labels times templates: more would keep a model busy for minutes


def listed(value: Any) -> list[Any]:
    """The request's `input` as a list."""
    return list(value) if isinstance(value, list) else [value]


def embedding_sources(request: schemas.EmbeddingRequest) -> list[tuple[str, str]]:
    """The pictures among the inputs: (address, place)."""
    items = listed(request.input)
    still = [(at, item) for at, item in enumerate(items) if not isinstance(item, (str, schemas.TextPart))]
    return [(item.source, f"input[{at}]") for at, item in still]


def embedding_length(request: schemas.EmbeddingRequest) -> int:
    """Characters of the texts among the inputs."""
    texts = [item if isinstance(item, str) else getattr(item, "text", "") for item in listed(request.input)]
    return sum(map(len, texts))


def embed(model: Model, request: schemas.EmbeddingRequest, pictures: Sequence[Any]) -> dict[str, Any]:
    """Embed texts and pictures, in the order of the input; runs where the model is."""
    items = listed(request.input)
    texts = {
        at: item if isinstance(item, str) else item.text
        for at, item in enumerate(items)
        if isinstance(item, (str, schemas.TextPart))
    }
    vectors: dict[int, Any] = {}
    if texts:
        vectors |= dict(zip(texts, model.embed_texts(list(texts.values())), strict=True))
    if pictures:
        places = [at for at in range(len(items)) if at not in texts]
        vectors |= dict(zip(places, model.embed_images(list(pictures)), strict=True))
    width = len(next(iter(vectors.values())))
    if request.dimensions not in (None, width):
        what = f"dimensions is {request.dimensions}, the model's vectors have {width}"
        raise ConfigError("parameter_unsupported", what)
    data = [
        {"object": "embedding", "index": at, "embedding": _told(vectors[at], request.encoding_format)}
        for at in range(len(items))
    ]
    tokens = sum(len(model.processor.tokenizer.encode(text)) for text in texts.values())
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": request.model, "data": data, "usage": usage}


def _told(vector: Any, encoding: str | None) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
    return vector.tolist()


def classify_sources(request: schemas.ClassifyRequest) -> list[tuple[str, str]]:
    """The pictures: (address, place)."""
    return [
        (item if isinstance(item, str) else item.source, f"input[{at}]")
        for at, item in enumerate(listed(request.input))
    ]


def classify_length(request: schemas.ClassifyRequest) -> int:
    """Characters of all labels in all templates.

    Raises:
        ConfigError: more labels times templates than one request may ask for.
    """
    templates = request.templates or ["{}"]
    texts = len(request.labels) * len(templates)
    if texts > MOST_TEXTS:
        what = f"labels times templates is {texts:,}, over the limit of {MOST_TEXTS:,}"
        raise ConfigError("request_invalid", what)
    return sum(map(len, request.labels)) * len(templates) + sum(map(len, templates)) * len(request.labels)


def classify(model: Model, request: schemas.ClassifyRequest, pictures: Sequence[Any]) -> dict[str, Any]:
    """Rank the labels of every picture; runs where the model is."""
    ranked = model.classify(list(pictures), request.labels, request.templates)
    data = [
        {"index": at, "labels": [{"label": name, "probability": p} for name, p in ranking if math.isfinite(p)]}
        for at, ranking in enumerate(ranked)
    ]
    return {"object": "list", "model": request.model, "data": data}
