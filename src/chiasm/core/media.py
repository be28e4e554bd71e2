"""Pictures and films that are made when somebody looks: what a generated or packed data set puts into a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL import Image


@runtime_checkable
class LazyPicture(Protocol):
    """A picture drawn or opened on demand; the source of an `ImagePart`.

    Attributes:
        fingerprint: equal for equal pixels, known without drawing them; stores of features are keyed by it.
    """

    @property
    def fingerprint(self) -> str: ...

    def picture(self) -> Image.Image:
        """The picture; the same pixels at every call."""


@runtime_checkable
class StoredPicture(Protocol):
    """An encoded picture that stands inside a larger file and is fetched on demand; the source of an `ImagePart`.

    Attributes:
        name: where it stands, for people.
    """

    name: str

    def read_bytes(self, max_bytes: int) -> bytes:
        """The encoded file, or its first `max_bytes` + 1 bytes; raises a `ChiasmError` when it can't be had."""


@runtime_checkable
class LazySound(Protocol):
    """A sound made on demand; a source that `processing.audio` reads.

    Attributes:
        fingerprint: equal for equal sounds, known without making them.
    """

    @property
    def fingerprint(self) -> str: ...

    def wav(self) -> bytes:
        """A WAV file; the same bytes at every call."""


@runtime_checkable
class Film(Protocol):
    """A video without a file: any moment can be asked for; the source of a `VideoPart`.

    Attributes:
        fingerprint: equal for equal films.
        duration: seconds.
        fps: frames per second at which it changes.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def duration(self) -> float: ...

    @property
    def fps(self) -> float: ...

    def frame(self, seconds: float) -> Image.Image:
        """The picture at a moment, 0 ≤ seconds < duration, as an RGB picture."""
