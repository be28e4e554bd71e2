"""Connections that don't wait for ever: on a head that drips, a reader that stopped, or too many at once.

uvicorn's protocol over h11, the strict parser, with two clocks more than it has of its own.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from chiasm.serving.faults import Fault

HEAD_SECONDS = 10.0  # for a request's line and headers, from the connection or the first byte on
READER_SECONDS = 60.0  # for a client to take what was written to it


class PatientNoLonger(H11Protocol):
    """uvicorn's protocol that gives up on clients that hold a connection without getting on."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._head: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came."""
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """A client left."""
        self._head, self._reader = _stopped(self._head), _stopped(self._reader)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        self._watch_head()

    def send_400_response(self, msg: str) -> None:
        """Say that this isn't HTTP, in the form of every other refusal, and hang up."""
        fault = Fault(400, "http_malformed", "the request is not valid HTTP, or its head is too long")
        body = json.dumps(fault.document()).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        """The client takes nothing more for now."""
        super().pause_writing()
        self._reader = self._reader or self.loop.call_later(READER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It goes on."""
        super().resume_writing()
        self._reader = _stopped(self._reader)

    def _watch_head(self) -> None:
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._head = _stopped(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)


def _stopped(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """None, with the timer off."""
    if timer is not None:
        timer.cancel()
    return None
