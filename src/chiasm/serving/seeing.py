"""Grounding and inspection over HTTP: where a phrase is, and what a model would see of a conversation."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import ConfigError
from chiasm.serving import schemas
from chiasm.serving.messages import conversation

if TYPE_CHECKING:
    from PIL import Image

    from chiasm.models.model import Model

MOST_SHOWN = 64  # crops of one answer


def ground_sources(request: schemas.GroundRequest) -> list[tuple[str, str]]:
    """The picture: (address, place)."""
    return [(request.input if isinstance(request.input, str) else request.input.source, "input")]


def ground(model: Model, request: schemas.GroundRequest, pictures: Sequence[Any]) -> dict[str, Any]:
    """Find a phrase in a picture; runs where the model is."""
    found = model.ground(pictures[0], request.phrase)
    regions = [
        {
            "box": None if region.box is None else [float(number) for number in region.box],
            "point": None if region.point is None else [float(number) for number in region.point],
            "score": float(region.score),
            "phrase": region.phrase,
        }
        for region in found.regions
    ]
    heat = None if found.heat is None else [[round(float(value), 4) for value in row] for row in found.heat]
    return {
        "object": "grounding",
        "model": request.model,
        "size": list(found.size),
        "regions": regions,
        "heat": heat,
        "text": found.text,
        "unread": list(found.unread),
        "clipped": found.clipped,
    }


def inspect(model: Model, request: schemas.InspectRequest, pictures: Sequence[Any]) -> dict[str, Any]:
    """Show the tokens and pixels of a conversation; runs where the model is."""
    seen = model.inspect(conversation(request.messages, pictures))
    count = sum(len(crops) for crops in seen.crops)
    if count > MOST_SHOWN:
        raise ConfigError("too_many_crops", f"the model sees {count} crops, at most {MOST_SHOWN} are shown")
    told = seen.to_json()
    for picture, crops in zip(told["pictures"], seen.crops, strict=True):
        picture["shown"] = [_data_uri(crop) for crop in crops]
    return {"object": "inspection", "model": request.model, **told}


def _data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
