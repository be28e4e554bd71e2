"""The application: every route, joined from the gate, the engines and the doors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse

import chiasm
from chiasm.core.errors import CapabilityError
from chiasm.serving import chat, documents, exchange, faults, messages, schemas, searching, seeing, vectors
from chiasm.serving.decoders import Decoders
from chiasm.serving.description import describe
from chiasm.serving.doors import Doors
from chiasm.serving.faults import Fault, fault_of
from chiasm.serving.fetching import Fetcher
from chiasm.serving.media import MediaGate, MediaRefusal
from chiasm.serving.metrics import Measured, Metrics
from chiasm.serving.page import document
from chiasm.serving.settings import Settings
from chiasm.serving.work import Host, Refusal, Task

_FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": documents.ErrorDocument, "description": "The request is refused."},
    "5XX": {"model": documents.ErrorDocument, "description": "The server can't answer."},
}
_CHAT: dict[int | str, dict[str, Any]] = {
    200: {
        "model": documents.ChatDocument,
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "The replies; with `stream`, events whose data are chunks.",
    }
}
_HEALTH: dict[int | str, dict[str, Any]] = {
    503: {"model": documents.HealthDocument, "description": "An engine makes no progress."}
}


class Server:
    """What the routes share.

    Args:
        hosts: by the name of their model.
        settings: limits and permissions.
        indexes: pictures that can be searched, by name.
    """

    def __init__(
        self, hosts: Mapping[str, Host], settings: Settings, indexes: Mapping[str, searching.Searched]
    ) -> None:
        self.hosts, self.settings, self.indexes = dict(hosts), settings, dict(indexes)
        media = settings.media
        fetcher = (
            Fetcher(settings.media_hosts, media.max_bytes, media.fetch_seconds, media.max_redirects)
            if settings.media_hosts
            else None
        )
        self.gate = MediaGate(media, Decoders(media, settings.decoders), fetcher, settings.media_folder)
        self.metrics = Metrics(self.hosts)
        self.created = int(time.time())
        self._opening = 0

    def host(self, name: str, capability: str | None = None) -> Host:
        """The host of a model, which can do something.

        Raises:
            Fault: model_not_found, or capability_missing.
        """
        host = self.hosts.get(name)
        if host is None:
            what = f"no such model; this server has {', '.join(self.hosts)}"
            raise Fault(404, "model_not_found", what, "model")
        if capability is not None and capability not in host.card.capabilities:
            can = ", ".join(host.card.capabilities)
            raise fault_of(CapabilityError("capability_missing", f"{name} has no {capability}; it has {can}"), "model")
        return host

    def check_text(self, length: int, param: str) -> None:
        """Refuse texts that a tokenizer would read for seconds.

        Raises:
            Fault: request_invalid.
        """
        if length > self.settings.max_text:
            what = f"the texts hold {length:,} characters, over the limit of {self.settings.max_text:,}"
            raise Fault(400, "request_invalid", what, param)

    async def pictures(self, request: Request, sources: Sequence[tuple[str, str]]) -> list[Any]:
        """Let a request's pictures through the gate.

        Args:
            request: whose share of memory they take.
            sources: (address, place in the request) each.

        Raises:
            Fault: the first refusal, with its place.
        """
        if not sources:
            return []
        if self._opening >= self.settings.max_queue:
            what = f"{self._opening} requests have their pictures read, the limit is {self.settings.max_queue}"
            raise Refusal("engine_busy", what, 1)
        self._opening += 1
        try:
            keep = request.scope["chiasm.share"].take
            return await asyncio.to_thread(self.gate.open, [source for source, _ in sources], keep)
        except MediaRefusal as refusal:
            raise fault_of(refusal, sources[refusal.index][1]) from None
        finally:
            self._opening -= 1

    def close(self, seconds: float) -> None:
        """Stop the engines and the decoders."""
        for host in self.hosts.values():
            host.close(seconds)
        self.gate.close()


def create_app(
    hosts: Mapping[str, Host], settings: Settings, indexes: Mapping[str, searching.Searched] | None = None
) -> FastAPI:
    """Build the application.

    Args:
        hosts: one a model, by the name that clients use; they are closed with the application.
        settings: limits and permissions.
        indexes: pictures that can be searched, from `searching.attach`.

    Returns:
        An ASGI application.
    """
    server = Server(hosts, settings, indexes or {})

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.close, 5.0)

    # No pages of documentation: FastAPI's load their scripts from elsewhere.
    app = FastAPI(
        title="chiasm", version=chiasm.__version__, openapi_url=None, docs_url=None, redoc_url=None, lifespan=life,
        responses=_FAILURES,
    )  # fmt: skip
    _add_chat(app, server)
    _add_tasks(app, server)
    _add_search(app, server)
    _add_list(app, server)
    _add_state(app, server)
    faults.install(app)
    describe(app, guarded=settings.api_key is not None)
    paths: dict[str, Any] = app.openapi()["paths"]
    posting = frozenset(path for path, methods in paths.items() if "post" in methods)
    app.add_middleware(Doors, settings=settings, posting=posting)
    app.add_middleware(Measured, metrics=server.metrics, routes=frozenset(paths))
    return app


def _add_chat(app: FastAPI, server: Server) -> None:
    @app.post("/v1/chat/completions", response_model=None, responses=_CHAT, summary="Answer a conversation")
    async def complete(request: Request, asked: schemas.ChatRequest) -> Response:
        host = server.host(asked.model, "generate")
        chat.check(asked, server.settings)
        server.check_text(messages.length(asked.messages), "messages")
        answer = chat.Completion(asked, host, server.settings, server.metrics)

        async def works() -> Any:
            pictures = await server.pictures(request, messages.sources(asked.messages))
            return chat.works(asked, messages.conversation(asked.messages, pictures), server.settings)

        async def whole() -> Response:
            return JSONResponse(await answer.whole(await works()))

        async def streamed() -> Response:
            pieces = await answer.begin(await works())
            return StreamingResponse(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

        return await exchange.unless_gone(request, streamed() if asked.stream else whole())


def _add_tasks(app: FastAPI, server: Server) -> None:
    async def done(request: Request, host: Host, name: str, asked: Any, sources: Sequence[tuple[str, str]]) -> Response:
        async def work() -> Response:
            task = Task(name, asked, await server.pictures(request, sources))
            (document,) = await exchange.results(host, [task], server.settings.request_seconds)
            return Response(document, media_type="application/json")

        return await exchange.unless_gone(request, work())

    @app.post("/v1/embeddings", response_model=documents.EmbeddingDocument, summary="Embed texts and pictures")
    async def embed(request: Request, asked: schemas.EmbeddingRequest) -> Any:
        host = server.host(asked.model, "embed")
        server.check_text(vectors.embedding_length(asked), "input")
        return await done(request, host, "embed", asked, vectors.embedding_sources(asked))

    @app.post("/v1/classify", response_model=documents.ClassifyDocument, summary="Rank labels for pictures")
    async def classify(request: Request, asked: schemas.ClassifyRequest) -> Any:
        host = server.host(asked.model, "embed")
        server.check_text(vectors.classify_length(asked), "labels")
        return await done(request, host, "classify", asked, vectors.classify_sources(asked))

    @app.post("/v1/ground", response_model=documents.GroundDocument, summary="Find a phrase in a picture")
    async def ground(request: Request, asked: schemas.GroundRequest) -> Any:
        host = server.host(asked.model, "ground")
        return await done(request, host, "ground", asked, seeing.ground_sources(asked))

    @app.post("/v1/inspect", response_model=documents.InspectDocument, summary="Show what a model would see")
    async def inspect(request: Request, asked: schemas.InspectRequest) -> Any:
        host = server.host(asked.model)
        server.check_text(messages.length(asked.messages), "messages")
        return await done(request, host, "inspect", asked, messages.sources(asked.messages))


def _add_search(app: FastAPI, server: Server) -> None:
    @app.post("/v1/images/search", response_model=documents.SearchDocument, summary="Find pictures of an index")
    async def search(request: Request, asked: schemas.SearchRequest) -> Any:
        name, searched = searching.chosen(server.indexes, asked)
        server.check_text(len(asked.query) if isinstance(asked.query, str) else 0, "query")

        async def work() -> Response:
            pictures = await server.pictures(request, searching.source(asked))
            host, seconds = server.hosts[searched.model], server.settings.request_seconds
            return JSONResponse(await searching.answer(name, searched, host, asked, pictures, seconds))

        return await exchange.unless_gone(request, work())


def _add_list(app: FastAPI, server: Server) -> None:
    def described(name: str, host: Host) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": server.created,
            "owned_by": host.card.family,
            "capabilities": list(host.card.capabilities),
        }

    @app.get("/v1/models", response_model=documents.ModelDocument, summary="Every served model")
    async def models() -> Any:
        return {"object": "list", "data": [described(name, host) for name, host in server.hosts.items()]}

    @app.get("/v1/models/{model:path}", response_model=documents.ModelItem, summary="One served model")
    async def one_model(model: str) -> Any:
        if model not in server.hosts:
            raise Fault(404, "model_not_found", "no such model", "model")
        return described(model, server.hosts[model])


def _add_state(app: FastAPI, server: Server) -> None:
    html, policy = document()
    guard = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

    @app.get("/", response_class=HTMLResponse, summary="A page to try the models on")
    async def page() -> Response:
        return HTMLResponse(html, headers=guard)

    @app.get("/openapi.json", response_model=dict[str, Any], summary="This description")
    async def description() -> Any:
        return JSONResponse(app.openapi())

    @app.get(
        "/health",
        response_model=documents.HealthDocument,
        responses=_HEALTH,
        summary="Whether the engines run and make progress",
    )
    async def health() -> Response:
        states = [host.health() for host in server.hosts.values()]
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
