"""`chiasm match`: does this text belong to this picture."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import UsageError, emit, say


def match(
    model: str,
    /,
    *images: str,
    text: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    truncate: bool = False,
    options: Loading = LOADING,
) -> None:
    """Probability that each text belongs to its picture: chiasm match MODEL IMAGE... --text "a cat" ....

    Args:
        model: A bundled name, a folder, or a hub id.
        images: Picture files, one for each text, or one for all texts.
        text: Texts.
        truncate: Cut texts that are longer than the model takes, instead of refusing them.
    """
    pictures = list(images) * len(text) if len(images) == 1 else list(images)
    if not text or len(pictures) != len(text):
        raise UsageError(
            f"{len(images)} pictures and {len(text)} texts don't pair up",
            hint='chiasm match MODEL IMAGE --text "a cat"',
        )
    probabilities = options.load(model).match(pictures, list(text), truncate=truncate).tolist()
    if options.json:
        rows = [
            {"image": image, "text": words, "probability": value}
            for image, words, value in zip(pictures, text, probabilities, strict=True)
        ]
        emit({"model": model, "matches": rows})
        return
    for words, value in zip(text, probabilities, strict=True):
        say(f"{value:7.1%}  {words}")
