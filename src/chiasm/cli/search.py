"""`chiasm search`: pictures of an index by words, or by another picture."""

from __future__ import annotations

from pathlib import Path

from chiasm.cli.index import model_of
from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import UsageError, emit, note, say


def search(
    index: Path,
    text: str | None = None,
    /,
    *,
    image: str | None = None,
    limit: int = 10,
    sheet: Path | None = None,
    model: str | None = None,
    options: Loading = LOADING,
) -> None:
    """Find pictures: chiasm search INDEX "a dog on a beach", or --image FILE for those like another.

    Every vector is compared, so the best are the best. The score is the cosine of the two vectors.

    Args:
        index: A folder from chiasm index add.
        text: What the picture shows.
        image: A picture instead of words.
        limit: Most pictures found.
        sheet: Picture (.png or .jpg) to write, with all that was found side by side.
        model: What embeds the query, where it isn't where it was when the index was made.
    """
    if (text is None) == (image is None):
        given = "0" if text is None else "2"
        raise UsageError(f"{given} of a text and --image were given, 1 is needed", hint='chiasm search INDEX "a dog"')
    if not 1 <= limit <= 10_000:
        raise UsageError(f"--limit is {limit}, outside 1 to 10,000")
    from chiasm.search.index import PictureIndex
    from chiasm.search.sheet import check, draw

    if sheet is not None:
        check(sheet, limit)
    opened = PictureIndex(index)
    loaded = model_of(opened, model, options)
    vectors = loaded.embed_texts([text]) if text is not None else loaded.embed_images([image])
    hits = opened.search(vectors[0].numpy(), limit)
    if sheet is not None:
        draw([(hit.path, f"{hit.score:.3f}  {hit.name}") for hit in hits], sheet)
        note(f"{sheet}: {len(hits)} pictures")
    if options.json:
        emit({"rows": len(opened), "hits": hits})
        return
    for hit in hits:
        say(f"{hit.score:.3f}  {hit.path if hit.path.isprintable() else repr(hit.path)}")
