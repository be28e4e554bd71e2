"""Searching over HTTP: a query becomes a vector where its model is, and an index in this process is asked."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chiasm.core.errors import ChiasmError
from chiasm.search.index import PROBE_TEXT, PictureIndex, probe_picture
from chiasm.serving import exchange, schemas
from chiasm.serving.faults import Fault
from chiasm.serving.work import Host, Task

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("chiasm.serving")
DEFAULT_RESULTS = 10


@dataclass(frozen=True, slots=True)
class Searched:
    """An index, and the served model that made its vectors."""

    index: PictureIndex
    model: str


async def attach(indexes: Mapping[str, PictureIndex], hosts: Mapping[str, Host], seconds: float) -> dict[str, Searched]:
    """Find the served model of every index, by what each says of the probe.

    Args:
        indexes: by the name that clients use.
        hosts: the served models.
        seconds: for a model to answer.

    Raises:
        ChiasmError: index_model, when no served model made an index's vectors.
    """
    probes = {}
    for name, host in hosts.items():
        if indexes and "embed" in host.card.capabilities:
            inputs = [PROBE_TEXT, schemas.ImagePart(type="image", url="probe")]
            probes[name] = await _embedded(host, name, inputs, [probe_picture()], seconds)
    found = {}
    for name, index in indexes.items():
        refusal = ChiasmError("index_model", f"index {name}: 0 of {len(hosts)} served models embed")
        for model, probe in probes.items():
            try:
                index.about.check(probe, model)
                found[name] = Searched(index, model)
                break
            except ChiasmError as error:
                refusal = error
        else:
            raise ChiasmError(
                refusal.code, refusal.what, hint=f"chiasm serve {index.about.model} --index {index.folder}"
            )
    return found


def chosen(indexes: Mapping[str, Searched], request: schemas.SearchRequest) -> tuple[str, Searched]:
    """The index of a request, and its name.

    Raises:
        Fault: index_not_found or model_not_found.
    """
    if request.index is None and len(indexes) == 1:
        name = next(iter(indexes))
    elif request.index is None or request.index not in indexes:
        what = f"this server has {len(indexes)} indexes" + (f": {', '.join(indexes)}" if indexes else "")
        raise Fault(404, "index_not_found", what, "index")
    else:
        name = request.index
    if request.model not in (None, indexes[name].model):
        raise Fault(404, "model_not_found", f"index {name} is searched by {indexes[name].model}", "model")
    return name, indexes[name]


def source(request: schemas.SearchRequest) -> list[tuple[str, str]]:
    """The picture, where one is searched by: (address, place)."""
    return [] if isinstance(request.query, str) else [(request.query.source, "query")]


async def answer(
    name: str, searched: Searched, host: Host, request: schemas.SearchRequest, pictures: Sequence[Image.Image],
    seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Search.

    Args:
        name: of the index.
        searched, host: the index, and where its model is.
        request: what is asked.
        pictures: the one that is searched by, or none.
        seconds: for the model to answer, and again for the index.

    Returns:
        A `SearchDocument`.

    Raises:
        TimeoutError: one of them takes longer.
        Fault: the index can't be read.
    """
    (vector,) = await _embedded(host, searched.model, [request.query], pictures, seconds)
    limit = request.max_num_results or DEFAULT_RESULTS
    try:
        hits = await asyncio.wait_for(asyncio.to_thread(searched.index.search, vector, limit), seconds)
    except ChiasmError as error:  # its words name the folder
        log.error("index %s: %s", name, error.what)
        raise Fault(503, error.code, f"index {name} can't be read; the server's log tells more") from None
    data = [{"id": hit.id, "filename": hit.name, "size": list(hit.size), "score": hit.score} for hit in hits]
    return {"object": "list", "index": name, "model": searched.model, "data": data}


async def _embedded(
    host: Host, model: str, inputs: Sequence[Any], pictures: Sequence[Any], seconds: float
) -> np.ndarray:
    asked = schemas.EmbeddingRequest(model=model, input=list(inputs))
    (document,) = await exchange.results(host, [Task("embed", asked, pictures)], seconds)
    return np.asarray([item["embedding"] for item in json.loads(document)["data"]], np.float32)
