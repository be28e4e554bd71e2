"""The published description: FastAPI's, without the answers that never come and with the key that is asked for."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from chiasm.serving.doors import OPEN_ROUTES

_ERROR = {"$ref": "#/components/schemas/ErrorDocument"}


def describe(app: FastAPI, *, guarded: bool) -> None:
    """Make `app.openapi()` tell what the server does.

    Args:
        app: with all its routes.
        guarded: a key is asked for.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _told(get_openapi(title=app.title, version=app.version, routes=app.routes), guarded)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _told(document: dict[str, Any], guarded: bool) -> dict[str, Any]:
    parts = document.setdefault("components", {})
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)  # FastAPI's own form of a refusal; ours is a 400
            for status in ("4XX", "5XX"):  # JSON, whatever the route's answers are
                operation["responses"][status]["content"] = {"application/json": {"schema": _ERROR}}
            if guarded and path not in OPEN_ROUTES:
                operation["security"] = [{"key": []}]
    for name in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(name, None)
    if guarded:
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document
