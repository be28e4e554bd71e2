"""What one server takes and refuses: every limit in one place, checked before work is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaLimits:
    """What the pictures of one request may cost.

    Attributes:
        max_bytes: size of one encoded picture.
        max_total_bytes: size of all encoded pictures of a request together.
        max_pixels: width times height of one picture, told from its header.
        max_total_pixels: the same of a whole request.
        max_side: width or height alone.
        max_pictures: pictures and frames of a request.
        max_frames: frames of one video.
        decode_seconds: after which the process that decodes a picture is killed; twice that for a request's pictures.
        decode_memory: bytes of address space that process may hold.
        fetch_seconds: for the remote pictures of a request, redirects included.
        max_redirects: hops to another allowed address.
    """

    max_bytes: int = 20 * 2**20
    max_total_bytes: int = 40 * 2**20
    max_pixels: int = 50_000_000
    max_total_pixels: int = 100_000_000
    max_side: int = 16_384
    max_pictures: int = 64
    max_frames: int = 64
    decode_seconds: float = 10.0
    decode_memory: int = 1536 * 2**20
    fetch_seconds: float = 10.0
    max_redirects: int = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One server.

    Attributes:
        api_key: what every route but the health route asks for; None = no key.
        media: limits of pictures.
        media_hosts: host names (``host`` or ``host:port``) from which remote pictures may be fetched.
        media_folder: the folder under which local files may be named; None = none.
        hosts: values of the Host header that are answered; empty = any.
        max_body: bytes of a request's body.
        max_buffered: bytes of the bodies of all requests in hand.
        max_requests: requests in hand, whatever they ask for.
        max_depth: nesting of a request's JSON.
        max_values: values of a request's JSON, which is read where everyone waits.
        max_text: characters of a request's texts altogether; a tokenizer that reads for seconds holds everyone up.
        max_held: bytes of decoded pictures of all requests in hand.
        body_seconds: within which a body must have come.
        request_seconds: within which a reply must be done.
        max_queue: requests that may wait for a model.
        max_batch: replies that a model writes at once.
        max_new_tokens: most tokens that a request may ask for.
        decoders: processes that decode pictures.
        stall_seconds: a model at work without progress for so long is reported as unhealthy.
    """

    api_key: str | None = None
    media: MediaLimits = field(default_factory=MediaLimits)
    media_hosts: tuple[str, ...] = ()
    media_folder: Path | None = None
    hosts: tuple[str, ...] = ()
    max_body: int = 64 * 2**20
    max_buffered: int = 512 * 2**20
    max_requests: int = 1024
    max_depth: int = 32
    max_values: int = 200_000
    max_text: int = 200_000
    max_held: int = 2**30
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    max_queue: int = 64
    max_batch: int = 8
    max_new_tokens: int = 4096
    decoders: int = 2
    stall_seconds: float = 120.0
