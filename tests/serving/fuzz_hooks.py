"""For schemathesis: most generated bodies name a served model and a real picture, so that they get past the door."""

from __future__ import annotations

import os
import random
from typing import Any

import schemathesis
from tests.serving.conftest import data_uri, encoded

MODELS = os.environ.get("CHIASM_FUZZED_MODELS", "llava clip").split()
_PICTURE = data_uri(encoded())


def _nearer(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        return {key: _PICTURE if key == "url" else _nearer(item, chance) for key, item in value.items()}
    return [_nearer(item, chance) for item in value] if isinstance(value, list) else value


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Put a served model and pictures in; one body in five stays as it was made."""
    chance = random.Random(repr(body))
    if not isinstance(body, dict) or chance.random() < 0.2:
        return body
    body = _nearer(body, chance)
    if isinstance(body.get("model"), str):
        body["model"] = chance.choice(MODELS)
    if isinstance(body.get("index"), str):
        body["index"] = "mine"
    if isinstance(body.get("input"), str) and "labels" in body:
        body["input"] = _PICTURE
    for limit in ("max_tokens", "max_completion_tokens"):
        if isinstance(body.get(limit), int) and body[limit] > 8:
            body[limit] = 8
    return body
