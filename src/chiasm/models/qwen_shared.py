"""What Qwen2-VL and Qwen2.5-VL share: wiring, template, picture and video settings of a miniature, the processor."""

from __future__ import annotations

from typing import Any

import torch

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError
from chiasm.fusion.native_splice import NativeSplicedLM, counted, multimodal_positions
from chiasm.models.assembly import Parts
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.packed_processor import PackedImageProcessor
from chiasm.processing.processor import Processor
from chiasm.processing.tokenizer import Tokenizer
from chiasm.processing.video import FpsSampling, VideoReading

QWEN_TEMPLATE = """\
{%- macro body(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type == 'video' -%}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' -%}
{% generation %}{{ body(message.content) }}{{ '<|im_end|>' }}{% endgeneration %}
{%- else -%}
{{ body(message.content) }}{{ '<|im_end|>' }}
{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
CONTROLS = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")


class TurningLM(NativeSplicedLM):
    """vision → connector → language with three positions a token.

    Args:
        config: with the three parts and `past_time`.
        tokens_per_second: positions of a second of video; None = one a group of frames.
    """

    def __init__(self, config: Any, tokens_per_second: float | None = None) -> None:
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config, self.tokens_per_second = config, tokens_per_second

    def positions(self, batch: Batch, attend: torch.Tensor | None) -> torch.Tensor | None:
        """(3, B, T) time, row and column where there are pictures; see `SplicedLM.positions`."""
        base = super().positions(batch, attend)
        if not batch.spans:
            return base
        return multimodal_positions(
            counted(base, batch), batch, tokens_per_second=self.tokens_per_second, past_time=self.config.past_time
        )


def qwen_tokenizer() -> Tokenizer:
    """A miniature's tokenizer, with Qwen's control tokens."""
    return tiny_tokenizer("chatml", image_token="<|image_pad|>", controls=CONTROLS)


def packed_processor(config: Any, parts: Parts, name: str) -> Processor:
    """The processor that a folder describes; a miniature's takes small pictures.

    Args:
        config: with `vision`, `language` and the two slots' ids.
        parts: the folder's parts.
        name: the published processor class.

    Raises:
        ConfigError: the picture settings cut patches otherwise than the tower takes them.
    """
    tower = config.vision
    unit = (tower.patch_size * tower.merge) ** 2
    settings = dict(
        parts.pictures
        or {
            "patch_size": tower.patch_size,
            "merge_size": tower.merge,
            "size": {"shortest_edge": 4 * unit, "longest_edge": 64 * unit},
        }
    )
    settings.setdefault("image_processor_type", "Qwen2VLImageProcessor")
    video = dict(parts.settings.get("video_processor") or {})
    if not video and parts.pictures is None:
        video = {"size": {"shortest_edge": 4 * unit, "longest_edge": 16 * unit}}
    pictures = PackedImageProcessor.from_settings(settings, video, frames=tower.frames)
    cut = (pictures.tiler.patch, pictures.tiler.merge)
    if cut != (tower.patch_size, tower.merge):
        raise ConfigError(
            "image_setting_unknown",
            f"the settings cut patches of {cut[0]} pixels, {cut[1]} a side; the tower takes {tower.patch_size}, "
            f"{tower.merge} a side",
        )
    tokens = parts.tokenizer
    sampling = FpsSampling(
        fps=float(video.get("fps") or 2.0),
        min_frames=int(video.get("min_frames") or 4),
        max_frames=int(video.get("max_frames") or 768),
        multiple=tower.frames,
    )
    own = {"processor_class": name, "video_processor": {**pictures.to_video_config(), "fps": sampling.fps}}
    return Processor(
        tokens,
        pictures,
        template=parts.template,
        image_token=tokens.id_to_token(config.image_token_id),
        max_length=config.language.context_length,
        settings={**own, **{key: value for key, value in parts.settings.items() if key != "video_processor"}},
        video=VideoReading(sampling=sampling, token=tokens.id_to_token(config.video_token_id)),
    )
