"""`chiasm caption`: one caption for each picture."""

from __future__ import annotations

from chiasm.cli.bulk import BULK, Bulk, Captions, listed_pictures
from chiasm.cli.options import LOADING, SAMPLING, Loading, Sampling
from chiasm.cli.output import UsageError, emit, say

CHUNK = 8  # pictures of a forward pass


def caption(
    model: str,
    /,
    *images: str,
    prompt: str | None = None,
    sampling: Sampling = SAMPLING,
    bulk: Bulk = BULK,
    options: Loading = LOADING,
) -> None:
    """Describe each picture: chiasm caption MODEL IMAGE....

    Args:
        model: A bundled name, a folder, or a hub id.
        images: Picture files, or folders of them.
        prompt: What the model is asked about each picture, or the words that the caption begins with; by default one
            sentence is asked for, and nothing of models that write nothing but captions.
    """
    if not images:
        raise UsageError("no picture was given", hint="chiasm caption MODEL IMAGE")
    settings = sampling.checked()
    files = listed_pictures(images)
    loaded = bulk.checked().load(model, options)
    found = bulk.run(Captions(prompt, settings), loaded, model, options, files, CHUNK)
    captions = [{"image": image, **item} for image, item in zip(files, found, strict=True)]
    if options.json:
        emit({"model": model, "captions": captions})
        return
    for item in captions:
        say(f"{item['image']}\t{item['caption']}" if len(files) > 1 else item["caption"])
