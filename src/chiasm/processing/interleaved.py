"""The processor of families that continue interleaved text: a picture is one token, and a chunk's end ends a reply.

A video is one token, too: its frames are the crops of one plan, and the connector makes one thing of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chiasm.core.plan import ImagePlan
from chiasm.processing.processor import Processor
from chiasm.processing.resampled import ResampledPictures
from chiasm.processing.tokenizer import Tokenizer
from chiasm.processing.video import Frames

if TYPE_CHECKING:
    import torch

# pictures and words as they come; what the assistant says is followed by the end of a chunk
CHUNK_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ('image', 'video') -%}{{ '<image>' }}{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if message.role == 'assistant' -%}{{ '<|endofchunk|>' }}{%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmedPictures(ResampledPictures):
    """Pictures, and videos as one picture of many crops."""

    def plan(self, picture: Any) -> ImagePlan:
        """What happens to one picture or `Frames`; see `ImageProcessor.plan`."""
        if not isinstance(picture, Frames):
            return ResampledPictures.plan(self, picture)
        return _filmed(ResampledPictures.plan(self, picture.size), picture, self.crop_tokens)

    def pixels(self, pictures: Sequence[Any]) -> tuple[torch.Tensor, list[ImagePlan]]:
        """Every crop and every frame, in order; see `ImageProcessor.pixels`."""
        counts = [len(item) if isinstance(item, Frames) else 1 for item in pictures]
        flat = [one for item in pictures for one in (item if isinstance(item, Frames) else (item,))]
        pixels, each = ResampledPictures.pixels(self, flat)
        plans, at = [], 0
        for item, count in zip(pictures, counts, strict=True):
            plan = each[at]
            plans.append(_filmed(plan, item, self.crop_tokens) if isinstance(item, Frames) else plan)
            at += count
        return pixels, plans


def _filmed(frame: ImagePlan, frames: Frames, tokens: int) -> ImagePlan:
    """The plan of a video, from its first frame's."""
    return replace(frame, crops=frame.crops * len(frames), num_tokens=tokens, seconds=frames.seconds)


class InterleavedProcessor(Processor):
    """A `Processor` whose replies end with a token of their own.

    Args:
        tokenizer: the text side.
        pictures: the picture side.
        end_token: ends a reply, beside the tokenizer's own end tokens.
        options: see `Processor`.
    """

    def __init__(self, tokenizer: Tokenizer, pictures: Any, end_token: str | None, **options: Any) -> None:
        super().__init__(tokenizer, pictures, **options)
        found = None if end_token is None else tokenizer.token_to_id(end_token)
        self.end_ids = tuple(dict.fromkeys([*([] if found is None else [found]), *tokenizer.eos_ids]))
