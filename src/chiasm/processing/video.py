"""Video: frames with their true seconds, sampled once, decoded as they are used.

A source is a file (decoded by PyAV, extra ``video``), a `Film` that can be asked for any moment, or a list of pictures
that somebody has sampled already. Packets are read first and give every frame's presentation time without decoding
anything; a sampling chooses among those times; frames are decoded one by one when they are asked for, skipping from
key frame to key frame, so an hour of video is never held.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from chiasm.core.errors import VideoError
from chiasm.core.media import Film
from chiasm.core.messages import Conversation, ImagePart, Message, Part, TextPart, VideoPart
from chiasm.processing.picture_bytes import Limits
from chiasm.processing.pictures import read_picture

Size = tuple[int, int]
FRAME = "chiasm_frame"  # in a picture's `info`: it is a frame of a video, and tiled as such


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of a video that a model will see.

    Attributes:
        seconds: when each was taken, from the video's first frame on.
        fps: frames per second among them.
        size: (width, height) of each.
        decode: gives the pictures in order, each once.
        length: seconds of the whole video; 0 = until one frame's time after the last frame.
    """

    seconds: tuple[float, ...]
    fps: float
    size: Size
    decode: Callable[[], Iterator[Image.Image]]
    length: float = 0.0

    @property
    def duration(self) -> float:
        """Seconds of the whole video."""
        return self.length or self.seconds[-1] + 1 / self.fps

    def __len__(self) -> int:
        return len(self.seconds)

    def __iter__(self) -> Iterator[Image.Image]:
        return self.decode()


class Sampling(Protocol):
    """Chooses frames."""

    def choose(self, seconds: Sequence[float], keys: Sequence[int]) -> list[int]:
        """Indices of the frames to take.

        Args:
            seconds: when each frame is shown, ascending.
            keys: indices of the key frames.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformSampling:
    """A number of frames, evenly spread.

    Attributes:
        frames: how many; all where the video has fewer.
    """

    frames: int = 8

    def choose(self, seconds: Sequence[float], keys: Sequence[int]) -> list[int]:
        """See `Sampling`: the middle of each of `frames` equal parts (Wang et al. 2016, TSN)."""
        total = len(seconds)
        if total <= self.frames:
            return list(range(total))
        return [int((at + 0.5) * total / self.frames) for at in range(self.frames)]


@dataclass(frozen=True, kw_only=True, slots=True)
class FpsSampling:
    """So many frames a second, within limits.

    Attributes:
        fps: frames per second wanted.
        min_frames, max_frames: limits of the count.
        multiple: the count is a multiple of it.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    multiple: int = 2

    def choose(self, seconds: Sequence[float], keys: Sequence[int]) -> list[int]:
        """See `Sampling`: evenly spread over the frames, as the reference does."""
        total = len(seconds)
        spacing = (seconds[-1] - seconds[0]) / (total - 1) if total > 1 else 0.0
        wanted = total * spacing * self.fps
        most = min(self.max_frames, total) // self.multiple * self.multiple
        count = min(max(wanted, self.min_frames), most, total)
        count = max(1, math.floor(count / self.multiple) * self.multiple)
        return [int(at * (total / count)) for at in range(count)]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyframeSampling:
    """The frames that the encoder stored whole: cheap to decode, and often where scenes change.

    Attributes:
        max_frames: at most so many, evenly thinned.
    """

    max_frames: int = 64

    def choose(self, seconds: Sequence[float], keys: Sequence[int]) -> list[int]:
        """See `Sampling`."""
        kept = list(keys) or [0]
        if len(kept) <= self.max_frames:
            return kept
        return [kept[int(at * len(kept) / self.max_frames)] for at in range(self.max_frames)]


def read_frames(source: Any, sampling: Sampling, fps: float | None = None, limits: Limits | None = None) -> Frames:
    """Sample a video.

    Args:
        source: a path, a `Film`, `Frames` (taken as they are), or a list of pictures (taken whole, `fps` says when).
        sampling: which frames of a file or film are taken.
        fps: of a list: its frames per second (1 where nothing is said); of a file or film: frames per second to take
            instead of the sampling's.
        limits: what one frame may cost.

    Returns:
        The frames; nothing is decoded yet but for a list's first picture.

    Raises:
        VideoError: no such file, no decodable frame, broken timestamps, frames of several sizes.
    """
    if isinstance(source, Frames):
        return source
    if fps is not None and not fps > 0:
        raise VideoError("video_fps", f"a video's fps is {fps}, it must be over 0")
    if isinstance(source, (list, tuple)):
        return _listed(source, fps or 1.0, limits)
    if fps is not None:
        sampling = FpsSampling(fps=fps, min_frames=1, multiple=getattr(sampling, "multiple", 1))
    if isinstance(source, Film):
        return _filmed(source, sampling)
    if isinstance(source, (str, Path)):
        return _filed(Path(source), sampling, limits or Limits())
    raise VideoError("video_source_unknown", f"a video can't be read from a {type(source).__name__}")


def _listed(pictures: Sequence[Any], fps: float, limits: Limits | None) -> Frames:
    if not pictures:
        raise VideoError("video_empty", "the video has 0 frames, at least 1 needed")
    opened = [read_picture(picture, limits) for picture in pictures]
    sizes = sorted({picture.size for picture in opened})
    if len(sizes) > 1:
        (w0, h0), (w1, h1) = sizes[:2]
        raise VideoError("video_ragged", f"one video holds frames of {w0}×{h0} and {w1}×{h1} pixels")
    seconds = tuple(at / fps for at in range(len(opened)))
    return Frames(seconds, fps, opened[0].size, lambda: iter(opened))


def _filmed(film: Film, sampling: Sampling) -> Frames:
    total = max(1, int(round(film.duration * film.fps)))
    times = [at / film.fps for at in range(total)]
    chosen = sampling.choose(times, range(total))
    seconds = tuple(times[at] for at in chosen)
    first = film.frame(seconds[0])
    return Frames(
        seconds, _rate(seconds), first.size, lambda: (film.frame(second) for second in seconds), film.duration
    )


def _filed(path: Path, sampling: Sampling, limits: Limits) -> Frames:
    av = _pyav()
    if not path.is_file():
        raise VideoError("video_missing", f"{path} is not a file")
    stamps, size = _timestamps(av, path, limits)
    start = stamps[0][0]
    times = [stamp - start for stamp, _ in stamps]
    keys = [at for at, (_, key) in enumerate(stamps) if key]
    chosen = sampling.choose(times, keys)
    seconds = tuple(times[at] for at in chosen)
    wanted = [stamps[at][0] for at in chosen]
    key_times = [stamps[at][0] for at in keys]
    length = times[-1] + 1 / _rate(times)
    return Frames(seconds, _rate(seconds), size, lambda: _decode(av, path, wanted, key_times), length)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise VideoError(
            "video_extra_missing", "reading video files needs PyAV, which isn't installed", hint="pip install av"
        ) from None
    av.logging.set_level(av.logging.PANIC)
    return av


def _timestamps(av: Any, path: Path, limits: Limits) -> tuple[list[tuple[float, bool]], Size]:
    """Seconds of every frame in display order, and whether it is a key frame; the size of a frame."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError("video_empty", f"{path} has 0 video streams, 1 needed")
            stream = container.streams.video[0]
            size = (stream.width, stream.height)
            packets = [packet for packet in container.demux(stream) if packet.size]
            base = stream.time_base
            found = [(packet.pts, bool(packet.is_keyframe)) for packet in packets]
    except av.error.FFmpegError as error:
        raise VideoError("video_unreadable", f"{path} can't be read as a video: {error.strerror}") from None
    if not found or not size[0] or not size[1]:
        raise VideoError("video_empty", f"{path} has {len(found)} frames of {size[0]}×{size[1]} pixels")
    if size[0] * size[1] > limits.max_pixels:
        raise VideoError(
            "video_too_large", f"{path} has frames of {size[0]}×{size[1]} pixels, at most {limits.max_pixels} allowed"
        )
    missing = sum(pts is None for pts, _ in found)
    if missing or base is None:
        raise VideoError(
            "video_timestamps", f"{path}: {missing} of {len(found)} frames have no timestamp", hint="re-encode it"
        )
    stamps = sorted((float(pts * base), key) for pts, key in found)
    repeated = len(stamps) - len({stamp for stamp, _ in stamps})
    if repeated:
        raise VideoError(
            "video_timestamps",
            f"{path}: {repeated} of {len(stamps)} frames share a timestamp with another",
            hint="re-encode it",
        )
    return stamps, size


def _decode(av: Any, path: Path, wanted: Sequence[float], keys: Sequence[float]) -> Iterator[Image.Image]:
    """The frames shown at the wanted times, in order; seeks only where a key frame lies between two of them."""
    taken = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            position = -math.inf
            frames = iter(container.decode(stream))
            for target in wanted:
                at = bisect_right(keys, target + 1e-6) - 1
                if at >= 0 and keys[at] > position + 1e-6 and position > -math.inf:
                    container.seek(int(round(keys[at] / stream.time_base)), stream=stream, backward=True)
                    frames = iter(container.decode(stream))
                frame = next((f for f in frames if f.time is not None and f.time >= target - 1e-6), None)
                if frame is None:
                    break
                position = frame.time
                taken += 1
                yield frame.to_image()
    except av.error.FFmpegError as error:
        raise VideoError(
            "video_unreadable", f"{path}: decoding stopped after {taken} of {len(wanted)} frames: {error.strerror}"
        ) from None
    if taken < len(wanted):
        raise VideoError("video_truncated", f"{path}: {taken} of {len(wanted)} chosen frames can be decoded")


def _rate(seconds: Sequence[float]) -> float:
    if len(seconds) < 2 or seconds[-1] <= seconds[0]:
        return 1.0
    return (len(seconds) - 1) / (seconds[-1] - seconds[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoReading:
    """How a family takes videos.

    Attributes:
        sampling: which frames are taken.
        token: the control token that a whole video stands under; None = every frame is a picture of its own.
        before, after: text around each frame that is a picture; `{index}` counts from 1, `{seconds}` tells its time.
    """

    sampling: Sampling
    token: str | None = None
    before: str = "Frame{index}: "
    after: str = "\n"

    def spell(self, conversation: Conversation) -> Conversation:
        """Sample every video of a conversation, once; frames that are pictures take the video's place.

        Raises:
            VideoError: a video can't be read; its message and part are named.
        """
        messages = []
        for i, message in enumerate(conversation.messages):
            parts: list[Part] = []
            for j, part in enumerate(message.parts):
                parts += self._spelled(part, i, j) if isinstance(part, VideoPart) else [part]
            messages.append(Message(message.role, tuple(parts)))
        return Conversation(tuple(messages))

    def _spelled(self, part: VideoPart, message: int, index: int) -> list[Part]:
        try:
            frames = read_frames(part.source, self.sampling, part.fps)
            if self.token is not None:
                return [VideoPart(frames, part.fps)]
            parts: list[Part] = []
            for number, (picture, seconds) in enumerate(zip(frames, frames.seconds, strict=True), 1):
                frame = picture.copy()
                frame.info[FRAME] = True
                values = {"index": number, "seconds": round(seconds, 2)}
                for text in (self.before, None, self.after):
                    if text is None:
                        parts.append(ImagePart(frame))
                    elif text:
                        parts.append(TextPart(text.format(**values)))
            return parts
        except VideoError as error:
            where = f"message {message}, part {index}: {error.what}"
            raise VideoError(error.code, where, hint=error.hint) from None
