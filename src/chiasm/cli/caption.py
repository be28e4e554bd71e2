"""`chiasm caption`: one caption for each picture."""

from __future__ import annotations

from chiasm.cli.ask import user_turn
from chiasm.cli.options import LOADING, SAMPLING, Loading, Sampling
from chiasm.cli.output import UsageError, emit, say

PROMPT = "Describe the picture in one sentence."


def caption(
    model: str, /, *images: str, prompt: str = PROMPT, sampling: Sampling = SAMPLING, options: Loading = LOADING
) -> None:
    """Describe each picture: chiasm caption MODEL IMAGE....

    Args:
        model: A bundled name, a folder, or a hub id.
        images: Picture files.
        prompt: What the model is asked about each picture.
    """
    if not images:
        raise UsageError("no picture was given", hint="chiasm caption MODEL IMAGE")
    settings = sampling.checked()
    loaded = options.load(model)
    replies = loaded.generate([[user_turn([image], prompt)] for image in images], **settings)
    captions = [
        {"image": image, "caption": reply.text.strip(), "finish_reason": reply.finish_reason}
        for image, reply in zip(images, replies, strict=True)
    ]
    if options.json:
        emit({"model": model, "captions": captions})
        return
    for item in captions:
        say(f"{item['image']}\t{item['caption']}" if len(images) > 1 else item["caption"])
