"""What bridged families' files share: the processor of a tower, any connector and any language model."""

from __future__ import annotations

from typing import Any

from chiasm.fusion.bridge import Bridge, crop_tokens
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, picture_processor
from chiasm.processing.processor import Processor
from chiasm.processing.resampled import ResampledPictures


def bridged_processor(
    config: Bridge, image_token_id: int, parts: Parts, kind: str, *, template: str | None = None, **options: Any
) -> Processor:
    """One crop a picture, as many visual tokens as the connector makes of it.

    Args:
        config: the family's.
        image_token_id: id of a picture slot.
        parts: the folder's.
        kind: the published picture class whose defaults apply.
        template: where the folder has none.
        options: see `Processor`.
    """
    pictures = picture_processor(parts, kind, config.vision.image_size)
    language = config.language
    return Processor(
        parts.tokenizer,
        ResampledPictures.of(pictures, crop_tokens(config)),
        template=parts.template or template,
        image_token=parts.tokenizer.id_to_token(image_token_id),
        max_length=language.context_length if isinstance(language, DecoderConfig) else None,
        settings=parts.settings,
        **options,
    )


def unread(config: Bridge) -> tuple[str, ...]:
    """Parameters of the tower that take no part."""
    return tuple(f"vision.{name}" for name in config.reading.unread(config.vision)) or ("\0",)
