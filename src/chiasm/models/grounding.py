"""`Model.ground` and `Model.locate` of families that write places and times: asked, answered, read back."""

from __future__ import annotations

import math
import re
from copy import copy
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import PromptError
from chiasm.core.messages import Conversation, Message, TextPart, VideoPart
from chiasm.core.replies import Grounding, Located, Moment, Region
from chiasm.processing.video import read_frames

if TYPE_CHECKING:
    from chiasm.models.model import Model


def ground_by_words(model: Model, image: Any, phrase: str, max_new_tokens: int = 256) -> Grounding:
    """Ask for a phrase and read the places in the reply.

    Args:
        model: of a family with a place style.
        image: any picture source.
        phrase: what to look for.
        max_new_tokens: longest reply.

    Returns:
        Regions in original pixels, all with the reply's mean token probability; what couldn't be read, and how many
        reached beyond the picture.

    Raises:
        PromptError: an empty phrase.
    """
    style = model.family.places
    assert style is not None and model.processor.image_processor is not None
    if not phrase.strip():
        raise PromptError("phrase_empty", f"the phrase has {len(phrase)} characters, all blank")
    pictures = model.processor.image_processor
    picture = pictures.read(image)
    asked, words = model, style.question.format(phrase=phrase)
    if style.template is not None and _knows(model, style.template):
        asked, words = copy(model), phrase
        asked.processor = model.processor.told_by(style.template.replace("<slot>", model.processor.image_token))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": words}]
    (reply,) = asked.generate([{"role": "user", "content": content}], max_new_tokens=max_new_tokens)
    text = model.processor.tokenizer.decode(reply.token_ids, skip_special=False) if style.controls else reply.text
    found = style.read(text, pictures.plan(picture))
    score = math.exp(sum(reply.logprobs) / len(reply.logprobs)) if reply.logprobs else 0.0
    regions = [Region(place.box, place.point, score, place.label or phrase) for place in found.places]
    return Grounding(tuple(regions), picture.size, text=text, unread=tuple(found.unread), clipped=found.clipped)


def _knows(model: Model, template: str) -> bool:
    """Every tag of a template is one of the tokenizer's control tokens."""
    tags = set(re.findall(r"</?\w+>", template)) - {"<slot>"}
    return tags <= set(model.processor.tokenizer.control_tokens)


def locate_by_words(model: Model, video: Any, query: str, max_new_tokens: int = 256) -> Located:
    """Ask when something happens and read the times in the reply.

    Args:
        model: of a family with a moment style.
        video: a path, a film, or a list of pictures, taken as one a second.
        query: what to look for.
        max_new_tokens: longest reply.

    Returns:
        Spans in seconds, all with the reply's mean token probability; what couldn't be read, and how many reached
        beyond the video.

    Raises:
        PromptError: an empty query.
        VideoError: the video can't be read.
    """
    style, reading = model.family.moments, model.processor.video
    assert style is not None and reading is not None
    if not query.strip():
        raise PromptError("phrase_empty", f"the query has {len(query)} characters, all blank")
    frames = read_frames(video, reading.sampling)
    turn = Message("user", (VideoPart(frames), TextPart(style.question.format(query=query))))
    (reply,) = model.generate([Conversation((turn,))], max_new_tokens=max_new_tokens)
    found = style.read(reply.text, frames.duration)
    score = math.exp(sum(reply.logprobs) / len(reply.logprobs)) if reply.logprobs else 0.0
    moments = tuple(Moment(span, score, query) for span in found.spans)
    return Located(moments, frames.duration, reply.text, found.unread, found.clipped)
