"""`Model.ground` of families that write places: the family's question, its reply, its spelling read back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import PromptError
from chiasm.core.replies import Grounding, Region

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
    content = [{"type": "image", "image": picture}, {"type": "text", "text": style.question.format(phrase=phrase)}]
    (reply,) = model.generate([{"role": "user", "content": content}], max_new_tokens=max_new_tokens)
    found = style.read(reply.text, pictures.plan(picture))
    score = math.exp(sum(reply.logprobs) / len(reply.logprobs)) if reply.logprobs else 0.0
    regions = [Region(place.box, place.point, score, place.label or phrase) for place in found.places]
    return Grounding(tuple(regions), picture.size, text=reply.text, unread=tuple(found.unread), clipped=found.clipped)
