"""`chiasm ask`: a question about zero or more pictures."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from chiasm.cli.options import LOADING, SAMPLING, Loading, Sampling
from chiasm.cli.output import UsageError, emit, say
from chiasm.core.errors import PromptError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def ask(
    model: str,
    /,
    *inputs: str,
    image_tokens: int | None = None,
    sampling: Sampling = SAMPLING,
    options: Loading = LOADING,
) -> None:
    """Ask a model a question about pictures: chiasm ask MODEL IMAGE... "question".

    Args:
        model: A bundled name, a folder, or a hub id.
        inputs: Picture and video files, then the question.
        image_tokens: Most visual tokens for each picture or video.
    """
    settings = sampling.checked()
    conversation = [user_turn(*split_question(inputs, verb="ask"))]
    loaded = options.load(model)
    if image_tokens is not None:
        loaded.processor = loaded.processor.within(image_tokens)
    start = time.perf_counter()
    if options.json or sampling.num_beams > 1:  # a beam has no single text until it ends
        reply = loaded.generate([conversation], **settings)[0]
        if not options.json:
            say(reply.text.strip())
            return
        emit(
            {
                "model": model,
                "text": reply.text,
                "token_ids": reply.token_ids,
                "logprobs": reply.logprobs,
                "finish_reason": reply.finish_reason,
                "usage": reply.usage,
                "seconds": round(time.perf_counter() - start, 3),
            }
        )
        return
    del settings["num_beams"]
    for piece in loaded.stream(conversation, **settings):
        sys.stdout.write(piece)
        sys.stdout.flush()
    say()


def split_question(inputs: tuple[str, ...], *, verb: str) -> tuple[list[str], str]:
    """Split command-line words into picture files and the question, which comes last.

    Raises:
        UsageError: no word at all, or the last one is a file and so no question was typed.
        PromptError: an empty question.
    """
    if not inputs:
        raise UsageError("no question was given", hint=f'chiasm {verb} MODEL IMAGE "what is this?"')
    *pictures, question = inputs
    if not question.strip():
        raise PromptError("question_empty", f"the question holds {len(question)} characters, none of them visible")
    if Path(question).suffix.lower() in PICTURE_SUFFIXES and " " not in question:
        raise UsageError(
            f"the last word {question!r} looks like a picture, not a question",
            hint=f'chiasm {verb} MODEL {question} "what is this?"',
        )
    if len(question) < 4096 and "\0" not in question and Path(question).is_file():
        raise UsageError(
            f"the last word {question!r} is a file, not a question",
            hint=f'chiasm {verb} MODEL {question} "what is this?"',
        )
    return pictures, question


def user_turn(pictures: list[str], text: str) -> dict[str, Any]:
    """One user message: the pictures in order, then the text."""
    parts: list[dict[str, str]] = [
        {"type": "video" if Path(picture).suffix.lower() in VIDEO_SUFFIXES else "image", "path": picture}
        for picture in pictures
    ]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
