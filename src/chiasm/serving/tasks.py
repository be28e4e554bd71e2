"""What a served model does besides writing: each task takes the model, the request and its pictures, and gives JSON.

The document is written as bytes where the model is, so that a large one never holds up the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chiasm.serving import seeing, vectors

Work = Callable[[Any, Any, Sequence[Any]], dict[str, Any]]


def _written(work: Work) -> Callable[[Any, Any, Sequence[Any]], bytes]:
    def write(model: Any, request: Any, pictures: Sequence[Any]) -> bytes:
        document = work(model, request, pictures)
        return json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")

    return write


TASKS: Mapping[str, Callable[[Any, Any, Sequence[Any]], bytes]] = {
    "embed": _written(vectors.embed),
    "classify": _written(vectors.classify),
    "ground": _written(seeing.ground),
    "inspect": _written(seeing.inspect),
}
