"""CogVLM (Wang et al. 2023, "CogVLM: Visual Expert for Pretrained Language Models") and CogVLM2 (Hong et al. 2024).

EVA2-CLIP-E's tower, a gated adapter, and a visual expert in every layer of the language model (§2.1). A picture takes
three positions: its beginning, all its patches together, its end. A token goes to the visual expert if it and its
successor are visual, so the end mark goes to the text's weights. CogVLM2 (§2.2): Llama 3, grouped heads, 1344 pixels,
2×2 patches brought together by a convolution. Its video model takes frames of 224 pixels, each followed by its second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from chiasm.connectors.glu_adapter import GLUAdapterConfig
from chiasm.core.batch import Batch
from chiasm.core.registry import Family, register
from chiasm.fusion.native_splice import counted, following
from chiasm.fusion.routed_weights import ExpertDecoderConfig
from chiasm.fusion.splice import SplicedLM
from chiasm.models.assembly import Parts, vit
from chiasm.nn.positions import RotaryConfig
from chiasm.processing.coordinates import GridBoxes
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.moments import SecondsInText
from chiasm.processing.processor import Processor
from chiasm.processing.tilers import Stretch
from chiasm.processing.video import UniformSampling, VideoReading
from chiasm.vision.vit import ViT, ViTConfig

MARKS = 2  # the tokens before and after a picture's patches


@dataclass(frozen=True, kw_only=True, slots=True)
class CogVLMConfig:
    """A CogVLM.

    Attributes:
        vision: EVA2-CLIP-E's tower, one layer less than trained.
        connector: the adapter.
        language: the language model with its visual experts.
        image_token_id: id that stands for visual tokens; it is never looked up.
        video_frames: frames of a video; 0 = one picture and no video.
    """

    vision: ViTConfig
    connector: GLUAdapterConfig
    language: ExpertDecoderConfig
    image_token_id: int
    video_frames: int = 0

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Only the video model locates, and it sees films alone."""
        return ("generate", "score", "locate") if self.video_frames else ("generate", "score", "ground")

    def build(self) -> CogVLM:
        """A model with random weights."""
        return CogVLM(self)


class CogVLM(SplicedLM):
    """vision → connector → language, visual tokens through weights of their own."""

    vision: ViT

    def __init__(self, config: CogVLMConfig) -> None:
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, P, D) patches of the last layer."""
        return self.vision.features(pixels)[:, 1:]

    def positions(self, batch: Batch, attend: torch.Tensor | None) -> torch.Tensor | None:
        """(B, T): a picture's begin mark, patches and end mark take three positions; see `SplicedLM.positions`."""
        base = super().positions(batch, attend)
        if not batch.spans:
            return base
        positions = counted(base, batch).clone()
        for span in batch.spans:
            start = int(positions[span.row, span.start])
            positions[span.row, span.start + 1 : span.stop - 1] = start + 1
            positions[span.row, span.stop - 1] = start + 2
            positions[span.row, following(batch, span)] -= span.stop - span.start - 3
        return positions

    def route(self, batch: Batch) -> torch.Tensor | None:
        """(B, T) bool: every visual token but the end mark."""
        if not batch.spans:
            return None
        assert batch.input_ids is not None
        route = torch.zeros_like(batch.input_ids, dtype=torch.bool)
        for span in batch.spans:
            route[span.row, span.start : span.stop - 1] = True
        return route


def eva2_clip_e(image: int) -> ViTConfig:
    """EVA2-CLIP-E without its last layer."""
    return vit(image, 14, 1792, 63, 16, 15360, norm_post=False, sublayer_norm=True)


VICUNA_7B = ExpertDecoderConfig(
    vocab_size=32000, hidden_dim=4096, num_layers=32, num_heads=32, num_kv_heads=32, mlp_dim=11008,
    context_length=2048, norm_eps=1e-5,
)  # fmt: skip
LLAMA3_8B = ExpertDecoderConfig(
    vocab_size=128256, hidden_dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, mlp_dim=14336,
    context_length=8192, norm_eps=1e-5, rotary=RotaryConfig(theta=5e5), visual_bias=True,
)  # fmt: skip


def _cogvlm(image: int) -> CogVLMConfig:
    adapter = GLUAdapterConfig(input_dim=1792, hidden_dim=11008, output_dim=4096)
    return CogVLMConfig(vision=eva2_clip_e(image), connector=adapter, language=VICUNA_7B, image_token_id=0)


def _cogvlm2(image: int, frames: int = 0) -> CogVLMConfig:
    adapter = GLUAdapterConfig(input_dim=1792, hidden_dim=14336, output_dim=4096, merge=2)
    return CogVLMConfig(
        vision=eva2_clip_e(image), connector=adapter, language=LLAMA3_8B, image_token_id=128002, video_frames=frames
    )


PRESETS = {
    "cogvlm_17b": _cogvlm(490),
    "cogvlm_17b_224": _cogvlm(224),
    "cogvlm2_19b": _cogvlm2(1344),
    "cogvlm2_video_12b": _cogvlm2(224, frames=24),
}


def template(slot: str, second: bool) -> str:
    """The published prompts: CogVLM's chat, or CogVLM2's questions and answers."""
    question, answer, start = ("Question: ", " Answer:", "") if second else ("", " [/INST] ", " [INST] ")
    between = "\\n" if second else " [INST] "
    return (
        "{{- bos_token -}}"
        "{%- for message in messages if message.content is not string -%}"
        "{%- for part in message.content if part.type == 'image' -%}{{ '" + slot + "' }}{%- endfor -%}"
        "{%- endfor -%}{{ '" + start + "' }}"
        "{%- for message in messages -%}"
        "{%- set text -%}{%- if message.content is string -%}{{ message.content }}{%- else -%}"
        "{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}"
        "{%- endif -%}{%- endset -%}"
        "{%- if message.role == 'assistant' -%}{{ ' ' + text + '" + between + "' }}"
        "{%- else -%}{{ '" + question + "' + text + '" + answer + "' }}{%- endif -%}"
        "{%- endfor -%}"
    )


def processor(config: CogVLMConfig, parts: Parts) -> Processor:
    """The whole picture stretched to the tower's square, after the first token; or a video's frames."""
    vision = config.vision
    pictures = ImageProcessor(
        tiler=Stretch(
            size=(vision.image_size, vision.image_size), patch=vision.patch_size * config.connector.merge, extra=MARKS
        )
    )
    token = parts.token(config.image_token_id)
    second = config.connector.merge > 1
    frames = VideoReading(sampling=UniformSampling(frames=config.video_frames), before="", after="{seconds:.0f}")
    return Processor(
        parts.tokenizer,
        pictures,
        template=parts.template or template(token, second),
        image_token=token,
        max_length=config.language.context_length,
        max_images=None if config.video_frames else 1,
        settings={"processor_class": "CogVLMProcessor", **parts.settings},
        video=frames if config.video_frames else None,
    )


def tiny() -> tuple[CogVLMConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml")
    vision = vit(32, 4, 32, 3, 2, 64, norm_post=False, sublayer_norm=True)
    language = ExpertDecoderConfig(
        vocab_size=len(tokenizer), hidden_dim=48, num_layers=2, num_heads=4, num_kv_heads=2, mlp_dim=96,
        context_length=2048, norm_eps=1e-5, visual_bias=True,
    )  # fmt: skip
    config = CogVLMConfig(
        vision=vision,
        connector=GLUAdapterConfig(input_dim=32, hidden_dim=96, output_dim=48, merge=2),
        language=language,
        image_token_id=tokenizer.token_to_id("<image>") or 0,
    )
    return config, processor(config, Parts(tokenizer, template=template("<image>", True)))


FAMILY: Family = register(
    Family(
        name="cogvlm",
        summary="a visual expert in every layer, EVA2-CLIP-E at up to 1344 pixels; Vicuna, Llama 3; video with seconds",
        paper="Wang et al. 2023, CogVLM: Visual Expert for Pretrained Language Models; Hong et al. 2024, CogVLM2",
        capabilities=("generate", "score", "ground", "locate"),
        config_type=CogVLMConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
        places=GridBoxes(question="Where is {phrase}? answer in [[x0,y0,x1,y1]] format.", digits=3),
        moments=SecondsInText(question="When does this happen: {query}? Answer with the seconds it starts and ends."),
    )
)
