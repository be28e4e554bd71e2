"""`chiasm ground`: where a phrase is in a picture, as boxes and points in its own pixels."""

from __future__ import annotations

from pathlib import Path

from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import emit, note, say

COLOUR = (230, 30, 90)


def ground(
    model: str,
    image: str,
    phrase: str,
    /,
    *,
    save: Path | None = None,
    image_tokens: int | None = None,
    options: Loading = LOADING,
) -> None:
    """Find a phrase in a picture: chiasm ground MODEL IMAGE "the red car" --save found.png.

    Args:
        model: A bundled name, a folder, or a hub id.
        image: A picture file.
        phrase: What to look for.
        save: Write the picture with its boxes and points drawn, over the heat map of families that find by one.
        image_tokens: Most visual tokens for the picture.
    """
    loaded = options.load(model)
    if image_tokens is not None:
        loaded.processor = loaded.processor.within(image_tokens)
    found = loaded.ground(image, phrase)
    regions = [
        {"box": region.box, "point": region.point, "score": region.score, "phrase": region.phrase}
        for region in found.regions
    ]
    if save is not None:
        from chiasm.processing.drawing import draw_places
        from chiasm.processing.pictures import read_picture

        places = [(region.box, region.point, region.phrase) for region in found.regions]
        picture = read_picture(image)
        if found.heat is not None:
            from chiasm.models.judging import heat_picture

            picture = heat_picture(found, picture)
        draw_places(picture, places, COLOUR).save(save)
    if options.json:
        emit(
            {
                "model": model,
                "size": list(found.size),
                "regions": regions,
                "text": found.text,
                "unread": list(found.unread),
                "clipped": found.clipped,
                "saved": None if save is None else str(save),
            }
        )
        return
    for region in found.regions:
        numbers = region.box or region.point or ()
        kind = "box" if region.box else "point"
        say(f"{region.phrase}: {kind} {', '.join(f'{n:.0f}' for n in numbers)} (score {region.score:.3f})")
    if not found.regions:
        say(f"nothing found for {phrase!r}")
    for piece in found.unread:
        note(f"not understood: {piece}")
    if found.clipped:
        note(f"{found.clipped} of {len(found.regions)} reached beyond the picture and were clipped")
    if save is not None:
        note(f"wrote {save}")
