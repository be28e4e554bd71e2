"""Qwen2.5-VL (Bai et al. 2025, "Qwen2.5-VL Technical Report").

Qwen2-VL with another tower (§2.1.1): RMSNorm, SwiGLU, attention in windows of 112 pixels but for four layers; and with
absolute time (§2.1.2): a second of video is a fixed number of positions, whatever the frame rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.connectors.patch_merger import PatchMergerConfig
from chiasm.core.registry import Family, register
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, llama
from chiasm.models.qwen_shared import QWEN_TEMPLATE, TurningLM, packed_processor, qwen_tokenizer
from chiasm.nn.positions import MultimodalRotaryConfig
from chiasm.processing.coordinates import PixelJson
from chiasm.processing.moments import SecondsInText
from chiasm.processing.processor import Processor
from chiasm.vision.native import NativeViTConfig, WindowConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Qwen25VLConfig:
    """A Qwen2.5-VL.

    Attributes:
        vision: the tower.
        connector: the merger.
        language: Qwen2.5 with M-RoPE.
        image_token_id, video_token_id: ids of a picture's and a video's slot.
        tokens_per_second: positions of a second of video.
        past_time: text after a video goes on behind its last moment, as the published code does; transformers 5
            goes on behind its rows and columns.
    """

    vision: NativeViTConfig
    connector: PatchMergerConfig
    language: DecoderConfig
    image_token_id: int
    video_token_id: int
    tokens_per_second: float = 2.0
    past_time: bool = True

    def build(self) -> Qwen25VL:
        """A model with random weights."""
        return Qwen25VL(self)


class Qwen25VL(TurningLM):
    """vision → connector → language with three positions a token, the first in seconds."""

    def __init__(self, config: Qwen25VLConfig) -> None:
        super().__init__(config, config.tokens_per_second)


def _qwen(width: int, layers: int, heads: int, kv: int, mlp: int, vocab: int, *, tower: int, tied: bool = False):  # type: ignore[no-untyped-def]
    return Qwen25VLConfig(
        vision=NativeViTConfig(
            hidden_dim=1280, num_layers=32, num_heads=16, mlp_dim=tower, act="silu", rms_norm=True,
            window=WindowConfig(),
        ),
        connector=PatchMergerConfig(input_dim=1280, output_dim=width, rms_norm=True),
        language=llama(
            vocab, width, layers, heads, kv, mlp, context=128000, eps=1e-6,
            rotary=MultimodalRotaryConfig(theta=1e6), qkv_bias=True, tie_embeddings=tied,
        ),
        image_token_id=151655,
        video_token_id=151656,
    )  # fmt: skip


PRESETS = {
    "qwen2_5_vl_3b": _qwen(2048, 36, 16, 2, 11008, 151936, tower=3420, tied=True),
    "qwen2_5_vl_7b": _qwen(3584, 28, 28, 4, 18944, 152064, tower=3420),
    "qwen2_5_vl_32b": _qwen(5120, 64, 40, 8, 27648, 152064, tower=3456),
    "qwen2_5_vl_72b": _qwen(8192, 80, 64, 8, 29568, 152064, tower=3456),
}


def processor(config: Qwen25VLConfig, parts: Parts) -> Processor:
    """Pictures and videos at native resolution."""
    return packed_processor(config, parts, "Qwen2_5_VLProcessor")


def tiny() -> tuple[Qwen25VLConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = qwen_tokenizer()
    config = Qwen25VLConfig(
        vision=NativeViTConfig(
            patch_size=4, hidden_dim=32, num_layers=3, num_heads=2, mlp_dim=60, act="silu", rms_norm=True,
            window=WindowConfig(side=16, full_layers=(1,)),
        ),
        connector=PatchMergerConfig(input_dim=32, output_dim=48, rms_norm=True),
        language=llama(
            len(tokenizer), 48, 2, 4, 2, 96, context=2048, eps=1e-6,
            rotary=MultimodalRotaryConfig(theta=1e6, sections=(2, 2, 2)), qkv_bias=True,
        ),
        image_token_id=tokenizer.token_to_id("<|image_pad|>") or 0,
        video_token_id=tokenizer.token_to_id("<|video_pad|>") or 0,
    )  # fmt: skip
    return config, processor(config, Parts(tokenizer, template=QWEN_TEMPLATE))


FAMILY: Family = register(
    Family(
        name="qwen2_5_vl",
        summary="native resolution in windows, absolute time, boxes in pixels; Qwen2.5",
        paper="Bai et al. 2025, Qwen2.5-VL Technical Report",
        capabilities=("generate", "score", "ground", "locate"),
        config_type=Qwen25VLConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
        places=PixelJson(question="Locate {phrase}, output its bbox coordinates using JSON format."),
        moments=SecondsInText(question="When does this happen in the video: {query}? Give start and end in seconds."),
    )
)
