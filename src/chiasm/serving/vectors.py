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


def listed(value: Any) -> list[Any]:
    """The request's `input` as a list."""
    return list(value) if isinstance(value, list) else [value]


def embedding_sources(request: schemas.EmbeddingRequest) -> list[tuple[str, str]]:
    """The pictures among the inputs: (address, place)."""
    items = listed(request.input)
    still = [(at, item) for at, item in enumerate(items) if not isinstance(item, (str, schemas.TextPart))]
    return [(item.source, f"input[{at}]") for at, item in still]


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


def classify(model: Model, request: schemas.ClassifyRequest, pictures: Sequence[Any]) -> dict[str, Any]:
    """Rank the labels of every picture; runs where the model is."""
    texts = len(request.labels) * len(request.templates or [""])
    if texts > 20_000:
        raise ConfigError("request_invalid", f"labels times templates is {texts:,}, over the limit of 20,000")
    ranked = model.classify(list(pictures), request.labels, request.templates)
    data = [
        {"index": at, "labels": [{"label": name, "probability": p} for name, p in ranking if math.isfinite(p)]}
        for at, ranking in enumerate(ranked)
    ]
    return {"object": "list", "model": request.model, "data": data}
