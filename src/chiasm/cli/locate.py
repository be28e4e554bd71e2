"""`chiasm locate`: when something happens in a video, in seconds."""

from __future__ import annotations

from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import emit, note, say


def locate(
    model: str, video: str, query: str, /, *, image_tokens: int | None = None, options: Loading = LOADING
) -> None:
    """Find when something happens in a video: chiasm locate MODEL VIDEO "the dog jumps".

    Args:
        model: A bundled name, a folder, or a hub id.
        video: A video file.
        query: What to look for.
        image_tokens: Most visual tokens for the video.
    """
    loaded = options.load(model)
    if image_tokens is not None:
        loaded.processor = loaded.processor.within(image_tokens)
    found = loaded.locate(video, query)
    if options.json:
        emit(
            {
                "model": model,
                "duration": found.duration,
                "spans": [
                    {"start": moment.span[0], "end": moment.span[1], "score": moment.score, "phrase": moment.phrase}
                    for moment in found
                ],
                "text": found.text,
                "unread": list(found.unread),
                "clipped": found.clipped,
            }
        )
        return
    for moment in found:
        start, end = moment.span
        say(f"{moment.phrase}: {start:.1f} to {end:.1f} s of {found.duration:.1f} s (score {moment.score:.3f})")
    if not len(found):
        say(f"nothing found for {query!r}")
    for piece in found.unread:
        note(f"not understood: {piece}")
    if found.clipped:
        note(f"{found.clipped} of {len(found)} reached beyond the video and were clipped")
