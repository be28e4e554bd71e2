"""Qwen2-VL (Wang et al. 2024, "Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution").

A tower at native resolution with rotary positions in two dimensions (§2.1), 2×2 patches merged into one visual
token, and Qwen2 with M-RoPE. Two frames of a video make one group; a picture is its own second frame.
"""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.connectors.patch_merger import PatchMergerConfig
from chiasm.core.registry import Family, register
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, llama
from chiasm.models.qwen_shared import QWEN_TEMPLATE, TurningLM, packed_processor, qwen_tokenizer
from chiasm.nn.positions import MultimodalRotaryConfig
from chiasm.processing.coordinates import GridBoxes
from chiasm.processing.processor import Processor
from chiasm.vision.native import NativeViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Qwen2VLConfig:
    """A Qwen2-VL.

    Attributes:
        vision: the tower.
        connector: the merger.
        language: Qwen2 with M-RoPE.
        image_token_id, video_token_id: ids of a picture's and a video's slot.
        past_time: text after a video goes on behind its last moment, as the published code does; transformers 5
            goes on behind its rows and columns.
    """

    vision: NativeViTConfig
    connector: PatchMergerConfig
    language: DecoderConfig
    image_token_id: int
    video_token_id: int
    past_time: bool = True

    def build(self) -> Qwen2VL:
        """A model with random weights."""
        return Qwen2VL(self)


class Qwen2VL(TurningLM):
    """vision → connector → language with three positions a token."""


def _qwen2_vl(width: int, layers: int, heads: int, kv: int, mlp: int, vocab: int, tied: bool = False) -> Qwen2VLConfig:
    return Qwen2VLConfig(
        vision=NativeViTConfig(hidden_dim=1280, num_layers=32, num_heads=16, mlp_dim=5120, act="quick_gelu"),
        connector=PatchMergerConfig(input_dim=1280, output_dim=width),
        language=llama(
            vocab, width, layers, heads, kv, mlp, context=32768, eps=1e-6,
            rotary=MultimodalRotaryConfig(theta=1e6), qkv_bias=True, tie_embeddings=tied,
        ),
        image_token_id=151655,
        video_token_id=151656,
    )  # fmt: skip


PRESETS = {
    "qwen2_vl_2b": _qwen2_vl(1536, 28, 12, 2, 8960, 151936, tied=True),
    "qwen2_vl_7b": _qwen2_vl(3584, 28, 28, 4, 18944, 152064),
    "qwen2_vl_72b": _qwen2_vl(8192, 80, 64, 8, 29568, 152064),
}


def processor(config: Qwen2VLConfig, parts: Parts) -> Processor:
    """Pictures and videos at native resolution."""
    return packed_processor(config, parts, "Qwen2VLProcessor")


def tiny() -> tuple[Qwen2VLConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = qwen_tokenizer()
    config = Qwen2VLConfig(
        vision=NativeViTConfig(
            patch_size=4, hidden_dim=32, num_layers=3, num_heads=2, mlp_dim=64, act="quick_gelu"
        ),
        connector=PatchMergerConfig(input_dim=32, output_dim=48),
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
        name="qwen2_vl",
        summary="native resolution, M-RoPE and video over Qwen2",
        paper="Wang et al. 2024, Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution",
        capabilities=("generate", "score", "ground"),
        config_type=Qwen2VLConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
        places=GridBoxes(
            question="Give the bounding box of {phrase}.", form="pairs", before="<|box_start|>", after="<|box_end|>"
        ),
    )
)
