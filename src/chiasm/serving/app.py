"""The application: every route, joined from the gate, the engines and the doors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse

from chiasm.core.errors import CapabilityError
from chiasm.serving import chat, exchange, faults, schemas, vectors
from chiasm.serving.decoders import Decoders
from chiasm.serving.doors import Doors
from chiasm.serving.engine import Engine, EngineRefusal
from chiasm.serving.faults import Fault, fault_of
from chiasm.serving.fetching import Fetcher
from chiasm.serving.media import MediaGate, MediaRefusal
from chiasm.serving.metrics import Measured, Metrics
from chiasm.serving.page import document
from chiasm.serving.settings import Settings

_FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": schemas.ErrorDocument, "description": "The request is refused."},
    "5XX": {"model": schemas.ErrorDocument, "description": "The server can't answer."},
}


class Server:
    """What the routes share.

    Args:
        engines: by the name of their model.
        settings: limits and permissions.
    """

    def __init__(self, engines: Mapping[str, Engine], settings: Settings) -> None:
        self.engines, self.settings = dict(engines), settings
        media = settings.media
        fetcher = (
            Fetcher(settings.media_hosts, media.max_bytes, media.fetch_seconds, media.max_redirects)
            if settings.media_hosts
            else None
        )
        self.gate = MediaGate(media, Decoders(media, settings.decoders), fetcher, settings.media_folder)
        self.metrics = Metrics(self.engines)
        self.created = int(time.time())
        self._opening = 0

    def engine(self, name: str, capability: str) -> Engine:
        """The engine of a model that can do something.

        Raises:
            Fault: model_not_found, or capability_missing.
        """
        engine = self.engines.get(name)
        if engine is None:
            what = f"no such model; this server has {', '.join(self.engines)}"
            raise Fault(404, "model_not_found", what, "model")
        if capability not in engine.model.capabilities:
            can = ", ".join(engine.model.capabilities)
            raise fault_of(CapabilityError("capability_missing", f"{name} has no {capability}; it has {can}"), "model")
        return engine

    async def pictures(self, sources: Sequence[tuple[str, str]]) -> list[Any]:
        """Let a request's pictures through the gate.

        Args:
            sources: (address, place in the request) each.

        Raises:
            Fault: the first refusal, with its place.
        """
        if not sources:
            return []
        if self._opening >= self.settings.max_queue:
            what = f"{self._opening} requests have their pictures read, the limit is {self.settings.max_queue}"
            raise EngineRefusal("engine_busy", what, 1)
        self._opening += 1
        try:
            return await asyncio.to_thread(self.gate.open, [source for source, _ in sources])
        except MediaRefusal as refusal:
            raise fault_of(refusal, sources[refusal.index][1]) from None
        finally:
            self._opening -= 1

    def close(self, seconds: float) -> None:
        """Stop the engines and the decoders."""
        for engine in self.engines.values():
            engine.close(seconds)
        self.gate.close()


def create_app(engines: Mapping[str, Engine], settings: Settings) -> FastAPI:
    """Build the application.

    Args:
        engines: one a model, by the name that clients use; they are closed with the application.
        settings: limits and permissions.

    Returns:
        An ASGI application.
    """
    server = Server(engines, settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.close, 5.0)

    # No pages of documentation: FastAPI's load their scripts from elsewhere.
    app = FastAPI(title="chiasm", docs_url=None, redoc_url=None, lifespan=life, responses=_FAILURES)
    _add_models(app, server)
    _add_state(app, server)
    faults.install(app)
    paths: dict[str, Any] = app.openapi()["paths"]
    posting = frozenset(path for path, methods in paths.items() if "post" in methods)
    app.add_middleware(Doors, settings=settings, posting=posting)
    routes = frozenset(paths) | {"/openapi.json"}
    app.add_middleware(Measured, metrics=server.metrics, routes=routes)
    return app


def _add_models(app: FastAPI, server: Server) -> None:
    seconds = server.settings.request_seconds

    @app.post("/v1/chat/completions", response_model=None, summary="Answer a conversation")
    async def complete(request: Request, asked: schemas.ChatRequest) -> Response:
        engine = server.engine(asked.model, "generate")
        chat.check(asked, server.settings)
        answer = chat.Completion(asked, engine, server.settings, server.metrics)

        async def jobs() -> Any:
            pictures = await server.pictures(chat.sources(asked))
            return chat.jobs(asked, chat.conversation(asked, pictures), server.settings)

        async def whole() -> Response:
            return JSONResponse(await answer.whole(await jobs()))

        async def streamed() -> Response:
            pieces = await answer.begin(await jobs())
            return StreamingResponse(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

        return await exchange.unless_gone(request, streamed() if asked.stream else whole())

    @app.post("/v1/embeddings", response_model=schemas.EmbeddingDocument, summary="Embed texts and pictures")
    async def embed(request: Request, asked: schemas.EmbeddingRequest) -> Any:
        engine = server.engine(asked.model, "embed")

        async def work() -> dict[str, Any]:
            pictures = await server.pictures(vectors.embedding_sources(asked))
            return await exchange.run(engine, lambda: vectors.embed(engine.model, asked, pictures), seconds)

        return JSONResponse(await exchange.unless_gone(request, work()))

    @app.post("/v1/classify", response_model=schemas.ClassifyDocument, summary="Rank labels for pictures")
    async def classify(request: Request, asked: schemas.ClassifyRequest) -> Any:
        engine = server.engine(asked.model, "embed")

        async def work() -> dict[str, Any]:
            pictures = await server.pictures(vectors.classify_sources(asked))
            return await exchange.run(engine, lambda: vectors.classify(engine.model, asked, pictures), seconds)

        return JSONResponse(await exchange.unless_gone(request, work()))

    def described(name: str, engine: Engine) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": server.created,
            "owned_by": engine.model.family.name,
            "capabilities": list(engine.model.capabilities),
        }

    @app.get("/v1/models", response_model=schemas.ModelDocument, summary="Every served model")
    async def models() -> Any:
        return {"object": "list", "data": [described(name, engine) for name, engine in server.engines.items()]}

    @app.get("/v1/models/{model:path}", response_model=schemas.ModelItem, summary="One served model")
    async def one_model(model: str) -> Any:
        if model not in server.engines:
            raise Fault(404, "model_not_found", "no such model", "model")
        return described(model, server.engines[model])


def _add_state(app: FastAPI, server: Server) -> None:
    html, policy = document()
    guard = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

    @app.get("/", response_class=HTMLResponse, summary="A page to try the models on")
    async def page() -> Response:
        return HTMLResponse(html, headers=guard)

    @app.get("/health", response_model=None, summary="Whether the engines run and make progress")
    async def health() -> Response:
        states = [engine.health() for engine in server.engines.values()]
        well = all(state.alive for state in states)
        document = {
            "status": "ok" if well else "failing",
            "waiting": sum(state.waiting for state in states),
            "active": sum(state.active for state in states),
        }
        return JSONResponse(document, 200 if well else 503)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Counters for Prometheus")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
