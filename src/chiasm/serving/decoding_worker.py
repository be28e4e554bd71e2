"""The process in which pictures are decoded: it holds little, may be killed at any time, and touches no network.

Speaks over its standard input and output. A request is ``<QQ`` (pixels allowed, length) and the encoded file; an
answer is ``<BQ`` (0 = pixels, 1 = refusal; length), then ``<II`` (width, height) and RGB bytes, or a JSON refusal.
It ends when its input closes, so it can't outlive the server.
"""

from __future__ import annotations

import json
import signal
import struct
import sys
from typing import BinaryIO

from chiasm.core.errors import PictureError
from chiasm.processing.picture_bytes import Limits
from chiasm.processing.pictures import read_picture

REQUEST, ANSWER, SIZE = struct.Struct("<QQ"), struct.Struct("<BQ"), struct.Struct("<II")
PIXELS, REFUSED = 0, 1


def confine(memory: int) -> None:
    """Give up what decoding doesn't need: memory beyond `memory` bytes, files, core dumps."""
    if sys.platform == "win32":
        return
    import resource

    for signalled in (signal.SIGINT, signal.SIGTERM):  # a terminal's reach all its processes; the server ends this one
        signal.signal(signalled, signal.SIG_IGN)
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def answer(data: bytes, limits: Limits) -> tuple[int, bytes]:
    """Decode one picture.

    Args:
        data: the encoded file.
        limits: of bytes, pixels and sides.

    Returns:
        Kind and body of the answer.
    """
    try:
        picture = read_picture(data, limits)
        return PIXELS, SIZE.pack(*picture.size) + picture.tobytes()
    except PictureError as error:
        return REFUSED, json.dumps([error.code, error.what, error.hint]).encode()
    except MemoryError:
        return REFUSED, json.dumps(["picture_too_large", "the picture takes too much memory to decode", None]).encode()


def serve(requests: BinaryIO, answers: BinaryIO, max_bytes: int, max_side: int) -> None:
    """Answer requests until the input closes."""
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        max_pixels, length = REQUEST.unpack(head)
        limits = Limits(max_bytes=max_bytes, max_pixels=max_pixels, max_side=max_side)
        kind, body = answer(requests.read(length), limits)
        answers.write(ANSWER.pack(kind, len(body)))
        answers.write(body)
        answers.flush()


if __name__ == "__main__":
    given_memory, given_bytes, given_side = (int(word) for word in sys.argv[1:])
    confine(given_memory)
    serve(sys.stdin.buffer, sys.stdout.buffer, given_bytes, given_side)
