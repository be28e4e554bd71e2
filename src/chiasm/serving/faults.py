"""Every failure as OpenAI's clients expect it: a status, a stable code, the bad part; never a path or a traceback."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from chiasm.core.errors import CapabilityError, ChiasmError, ConfigError, PictureError, PromptError
from chiasm.serving.work import Refusal

log = logging.getLogger("chiasm.serving")

_TYPES = {401: "authentication_error", 429: "rate_limit_error", 503: "server_error", 504: "server_error"}
_MEMBERS = ("str", "list", "text_part", "none", "user", "system", "developer", "tool", "assistant")
_OURS = {404: ("route_not_found", "no such route"), 405: ("method_not_allowed", "the route doesn't take this method")}
# Only these speak of the request itself; any other failure's words may name files of this machine.
_TELLING = (PictureError, PromptError, ConfigError, CapabilityError)


class Fault(Exception):
    """A failure with its status.

    Args:
        status: of HTTP.
        code: stable.
        message: for people.
        param: the bad part, such as ``messages[0].content[1]``.
        headers: to send along.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.headers = status, code, message, param, headers

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.document(), self.status, headers=self.headers)


def fault_of(error: BaseException, param: str | None = None) -> Fault:
    """Any exception as a fault.

    Args:
        error: what was raised.
        param: the bad part, where it is known.
    """
    if isinstance(error, Fault):
        return error
    if isinstance(error, Refusal):
        status = 429 if error.code == "engine_busy" else 503
        return Fault(status, error.code, error.what, None, {"Retry-After": str(error.retry_after)})
    if isinstance(error, _TELLING):
        return Fault(400, error.code, _without_surrogates(error.what), param)
    if isinstance(error, TimeoutError):
        return Fault(504, "request_timeout", "the reply was not done in time")
    if not isinstance(error, ChiasmError):
        log.error("a request failed in an unforeseen way", exc_info=error)
    return Fault(500, "internal", "the server failed in an unforeseen way; its log tells more")


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def place(path: tuple[Any, ...]) -> str | None:
    """``("body", "messages", 0, "content", "parts", 1)`` → ``messages[0].content[1]``; union members are left out."""
    text = ""
    for step in path[1:]:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isidentifier() and step.islower() and step not in _MEMBERS:
            text += f".{step}" if text else step
    return text or None


def install(app: FastAPI) -> None:
    """Give an application handlers for every kind of failure."""

    async def fault(request: Request, error: Exception) -> JSONResponse:
        return fault_of(error).response()

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return Fault(400, "body_malformed", "the body is not valid JSON").response()
        loc = tuple(first["loc"])
        if first["type"].startswith("union_tag"):  # the place is the field that tells the kinds apart
            loc += (first["ctx"]["discriminator"].strip("'"),)
        where = place(loc)
        if first["type"] == "extra_forbidden":
            what = f"{str(first['loc'][-1])[:64]!r} is not a parameter of this route"
            return Fault(400, "parameter_unsupported", _without_surrogates(what), where).response()
        return Fault(400, "request_invalid", f"{where or 'the body'}: {first['msg'][:200]}", where).response()

    async def routing(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code, message = _OURS.get(error.status_code, ("body_malformed", "the request can't be read"))
        return Fault(error.status_code, code, message, None, dict(error.headers or {})).response()

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, routing)
    for kind in (Fault, ChiasmError, TimeoutError, Exception):
        app.add_exception_handler(kind, fault)
