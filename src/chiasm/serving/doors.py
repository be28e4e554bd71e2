"""What a request passes before the application sees it: host, key, kind, size, depth and time of its body."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chiasm.serving.faults import Fault
from chiasm.serving.keeping import Share, Store
from chiasm.serving.settings import Settings

OPEN_ROUTES = ("/health", "/")
# A string is passed over in one step, so brackets in texts and pictures' base64 don't count and cost nothing.
_MARKS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]++|[\]}]++|,', re.DOTALL)


class Doors:
    """An ASGI application in front of another.

    Args:
        inner: the application.
        settings: key, hosts and limits.
        posting: paths that take a body.
    """

    def __init__(self, inner: ASGIApp, settings: Settings, posting: frozenset[str]) -> None:
        self.inner, self.settings, self.posting = inner, settings, posting
        self._key = None if settings.api_key is None else _digest(settings.api_key.encode())
        self._buffered = self._inside = 0
        self.store = Store(settings.max_held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        body, share = bytearray(), Share(self.store)
        scope["chiasm.share"] = share
        self._inside += 1
        try:
            if await self._admitted(scope, receive, send, body):
                await self.inner(scope, _replayed(bytes(body), receive), send)
        finally:
            share.close()
            self._buffered -= len(body)
            self._inside -= 1

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, body: bytearray) -> bool:
        """Read the body into `body`, or answer why not."""
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            if b"content-length" in headers and b"transfer-encoding" in headers:
                # A proxy that goes by the one would see other requests than we, who go by the other.
                raise Fault(400, "http_malformed", "the request tells the length of its body in two ways")
            self._check(scope, headers)
            if scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
                self._check_kind(scope, headers)
                self._check_announced(headers)
                await asyncio.wait_for(self._receive(receive, body), self.settings.body_seconds)
                self._check_form(body)
            return True
        except Fault as fault:
            # The rest of the body isn't read: the connection can't be used again.
            response = fault.response()
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
        except TimeoutError:
            what = f"the body did not come within {self.settings.body_seconds:g} seconds"
            await Fault(408, "body_too_slow", what, None, {"Connection": "close"}).response()(scope, receive, send)
        except ConnectionResetError:
            pass
        return False

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if self._inside > self.settings.max_requests and scope["path"] not in OPEN_ROUTES:
            what = f"{self.settings.max_requests} requests are in hand, which is the limit"
            raise Fault(503, "engine_busy", what, None, {"Retry-After": "1"})
        if self.settings.hosts:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            if re.sub(r":\d+$", "", host) not in self.settings.hosts:
                raise Fault(421, "host_not_allowed", "the Host header is not this server's")
        if self._key is not None and scope["path"] not in OPEN_ROUTES:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            right = hmac.compare_digest(_digest(given.strip()), self._key)
            if not right or scheme.lower() != b"bearer":
                raise Fault(401, "invalid_api_key", "no API key, or a wrong one", None, {"WWW-Authenticate": "Bearer"})

    def _check_kind(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """A page elsewhere can make a browser post forms and plain text here, but not JSON."""
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if scope["path"] in self.posting and scope["method"] == "POST" and kind != b"application/json":
            raise Fault(415, "media_type", "the body must be application/json")

    def _check_announced(self, headers: dict[bytes, bytes]) -> None:
        text = headers.get(b"content-length", b"")
        if text.isdigit() and (len(text) >= 19 or int(text) > self.settings.max_body):
            raise self._too_large()

    async def _receive(self, receive: Receive, body: bytearray) -> None:
        """Read the body; only bytes that came count, so that nobody takes up room by announcing."""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            piece = message.get("body", b"")
            if len(body) + len(piece) > self.settings.max_body:
                raise self._too_large()
            if self._buffered + len(piece) > self.settings.max_buffered:
                raise Fault(429, "engine_busy", "the requests in hand hold too many bytes", None, {"Retry-After": "1"})
            body += piece
            self._buffered += len(piece)
            if not message.get("more_body"):
                return

    def _check_form(self, body: bytearray) -> None:
        deepest, values = form(body, self.settings.max_values)
        if deepest > self.settings.max_depth:
            raise Fault(400, "body_too_deep", f"the body nests deeper than {self.settings.max_depth}")
        if values > self.settings.max_values:
            raise Fault(413, "body_too_large", f"the body holds more than {self.settings.max_values:,} values")

    def _too_large(self) -> Fault:
        return Fault(413, "body_too_large", f"the body is over the limit of {self.settings.max_body:,} bytes")


def form(body: bytes | bytearray, most: int) -> tuple[int, int]:
    """The deepest nesting and the number of values of a JSON text, up to `most`; nothing is parsed.

    Args:
        body: the text.
        most: values after which counting ends.

    Returns:
        Depth and values, both at least what was seen.
    """
    deepest = level = 0
    values = 1
    for found in _MARKS.finditer(body):
        first, count = found[0][0], found.end() - found.start()
        if first == b","[0]:
            values += 1
        elif first in b"[{":
            level, values = level + count, values + count
            deepest = max(deepest, level)
        elif first in b"]}":
            level -= count
        if values > most:
            break
    return deepest, values


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once, then whatever else comes: in the end, the disconnect."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay
