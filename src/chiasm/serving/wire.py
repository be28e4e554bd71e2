"""Frames between the application and an engine's process: a JSON head and, where there is one, a body of bytes.

The application reads nothing but JSON and bytes. An engine's process unpickles bodies, which only its parent writes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import IO, Any

import chiasm.core.errors as errors
from chiasm.core.errors import ChiasmError
from chiasm.core.replies import Reply, Usage
from chiasm.serving.work import Answer, Refusal

_SIZES = struct.Struct("<IQ")


def write(stream: IO[bytes], head: Mapping[str, Any], body: bytes = b"") -> None:
    """Send one frame."""
    text = json.dumps(head).encode()
    stream.write(_SIZES.pack(len(text), len(body)) + text)
    stream.write(body)
    stream.flush()


def read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Wait for one frame.

    Raises:
        EOFError: the other side is gone.
    """
    head, body = _SIZES.unpack(_exactly(stream, _SIZES.size))
    return json.loads(_exactly(stream, head)), _exactly(stream, body)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size) if size else b""
    if len(data) < size:
        raise EOFError
    return data


def error_head(error: BaseException) -> dict[str, Any]:
    """An exception as plain values; one that isn't a user's mistake keeps nothing of its text."""
    if isinstance(error, ChiasmError):
        retry = getattr(error, "retry_after", None)
        return {
            "class": type(error).__name__, "code": error.code, "what": error.what, "hint": error.hint, "retry": retry,
        }  # fmt: skip
    return {"class": None}


def error_of(head: Mapping[str, Any]) -> Exception:
    """The exception again."""
    if head["class"] is None:
        return RuntimeError("the engine's log tells more")
    if head["retry"] is not None:
        return Refusal(head["code"], head["what"], head["retry"])
    kind = getattr(errors, head["class"], ChiasmError)
    return kind(head["code"], head["what"], hint=head["hint"])


def answer_head(answer: Answer) -> dict[str, Any]:
    """A reply as plain values."""
    reply = answer.reply
    return {
        "text": reply.text,
        "ids": list(reply.token_ids),
        "logprobs": list(reply.logprobs),
        "reason": reply.finish_reason,
        "usage": [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.image_tokens],
        "alternatives": [list(place) for place in reply.alternatives],
        "spelled": None if answer.spelled is None else [[i, list(word)] for i, word in answer.spelled.items()],
    }


def answer_of(head: Mapping[str, Any]) -> Answer:
    """The reply again."""
    usage, told = Usage(*head["usage"]), [[(i, score) for i, score in place] for place in head["alternatives"]]
    reply = Reply(head["text"], head["ids"], head["logprobs"], head["reason"], usage, told)
    return Answer(reply, None if head["spelled"] is None else {i: bytes(word) for i, word in head["spelled"]})
