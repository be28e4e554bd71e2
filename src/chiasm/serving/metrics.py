"""Counters of one server, in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from starlette.types import ASGIApp, Receive, Scope, Send

from chiasm.core.replies import Usage
from chiasm.serving.work import Host

_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """What a server counts.

    Args:
        hosts: by the name of their model.
    """

    def __init__(self, hosts: Mapping[str, Host]) -> None:
        self.registry = CollectorRegistry()
        self.hosts = hosts
        self.requests = self._counter("chiasm_requests", "Requests answered.", "route", "status")
        self.prompt_tokens = self._counter("chiasm_prompt_tokens", "Tokens read, pictures included.", "model")
        self.completion_tokens = self._counter("chiasm_completion_tokens", "Tokens written.", "model")
        self.seconds = Histogram(
            "chiasm_request_seconds", "Time to the last byte.", ["route"], buckets=_BUCKETS, registry=self.registry
        )
        self.registry.register(self)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """The engines as they are now."""
        active = GaugeMetricFamily("chiasm_active_sequences", "Requests being worked on.", labels=["model"])
        queued = GaugeMetricFamily("chiasm_queue_depth", "Requests that wait.", labels=["model"])
        alive = GaugeMetricFamily("chiasm_engine_alive", "1 while the engine makes progress.", labels=["model"])
        restarts = CounterMetricFamily(
            "chiasm_engine_restarts", "Times that an engine's process was started anew.", labels=["model"]
        )
        used = ["model", "cache"]
        hits = CounterMetricFamily("chiasm_cache_hits", "Pictures and parts of prompts that were kept.", labels=used)
        misses = CounterMetricFamily("chiasm_cache_misses", "Pictures and parts that had to be read.", labels=used)
        held = GaugeMetricFamily("chiasm_cache_bytes", "Bytes of what is kept.", labels=used)
        for name, host in self.hosts.items():
            health = host.health()
            for cache, (found, read, held_bytes) in health.caches.items():
                hits.add_metric([name, cache], found)
                misses.add_metric([name, cache], read)
                held.add_metric([name, cache], held_bytes)
            restarts.add_metric([name], health.restarts)
            active.add_metric([name], health.active)
            queued.add_metric([name], health.waiting)
            alive.add_metric([name], float(health.alive))
        yield from (active, queued, alive, restarts, hits, misses, held)

    def count(self, model: str, usage: Usage) -> None:
        """Add one reply's tokens."""
        self.prompt_tokens.labels(model).inc(usage.prompt_tokens)
        self.completion_tokens.labels(model).inc(usage.completion_tokens)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)


class Measured:
    """An ASGI application that counts what another answers.

    Args:
        app: the other.
        metrics: where to count.
        routes: paths that get a label of their own.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self.routes else "other"
        start, status = time.perf_counter(), "none"

        async def watch(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)
