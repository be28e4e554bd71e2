"""IDEFICS (Laurençon et al. 2023, "OBELICS: An Open Web-Scale Filtered Dataset of Interleaved Documents", §5).

An open Flamingo on LLaMA: CLIP's ViT-H/14, all of its last states; a Perceiver resampler with normalised queries and
keys; gated layers with RMSNorm and a gated MLP before every fourth layer of the language model. A picture is one word,
`<image>`, between two `<fake_token_around_image>`, of which adjacent pictures share one. Behind an end of text no
picture is seen until the next. The words that were added to LLaMA's have tables of their own in published files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from chiasm.connectors.resampler import ResamplerConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.gated_cross_attention import GatedCrossAttentionLM, GatesConfig
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, clip_tower, llama, picture_processor
from chiasm.processing.interleaved import InterleavedProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.resampled import ResampledPictures
from chiasm.vision.cells import CellTower, CellTowerConfig
from chiasm.vision.patches import FinalStates, PatchSelection
from chiasm.vision.vit import ViT, ViTConfig

FAKE, UTTERANCE = "<fake_token_around_image>", "<end_of_utterance>"
# pictures and words as they come, spaces around words dropped, as the published processor does
TEMPLATE = """\
{%- for message in messages -%}
{%- if message.content is string -%}{{ message.content.strip(' ') }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<image>' }}{%- elif part.type == 'text' -%}{{ part.text.strip(' ') }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class IdeficsConfig:
    """An IDEFICS.

    Attributes:
        vision: CLIP's tower.
        connector: the resampler.
        language: LLaMA, its vocabulary with the added words.
        gates: the gated layers.
        image_token_id: id of `<image>`.
        added_words: how many of the vocabulary's last words have tables of their own.
        end_id: behind this token no picture is seen.
        reading: which of the tower's states are features.
    """

    vision: ViTConfig | CellTowerConfig
    connector: ResamplerConfig
    language: DecoderConfig
    gates: GatesConfig
    image_token_id: int
    added_words: int
    end_id: int = 2
    reading: PatchSelection | FinalStates = PatchSelection(layer=-1, keep_class_token=True)

    @property
    def unread(self) -> tuple[str, ...]:
        """Parameters that take no part."""
        return tuple(f"vision.{name}" for name in self.reading.unread(self.vision))

    def build(self) -> Idefics:
        """A model with random weights."""
        return Idefics(self)


class Idefics(GatedCrossAttentionLM):
    """vision → resampler → gated layers in LLaMA."""

    vision: ViT | CellTower

    def __init__(self, config: IdeficsConfig) -> None:
        super().__init__(
            config.vision.build(),
            config.connector.build(),
            config.language.build(),
            config.gates,
            config.connector.input_dim,
            config.end_id,
        )
        self.config = config

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) → (crops, 1 + P, D) states of the tower, before the resampler."""
        return self.config.reading.read(self.vision, pixels)


def tower(image: int, patch: int, width: int, layers: int, heads: int, mlp: int) -> ViTConfig:
    """CLIP's ViT with the exact GELU (OpenCLIP's ViT-H/14)."""
    return replace(clip_tower(image, patch, width, layers, heads, mlp), act="gelu")


def _idefics(width: int, layers: int, heads: int, mlp: int, *, instruct: bool = False) -> IdeficsConfig:
    vision = tower(224, 14, 1280, 32, 16, 5120)
    resampler = ResamplerConfig(
        input_dim=1280, output_dim=None, num_heads=16, head_dim=96, mlp_dim=5120, act="relu", qk_norm=True
    )
    gates = GatesConfig(
        every=4,
        first=0,
        num_heads=heads,
        head_dim=width // heads,
        mlp_dim=mlp,
        act="silu",
        norm_eps=1e-6,
        rms_norm=True,
        gated_mlp=True,
        qk_norm=True,
    )
    added = 3 if instruct else 2
    language = llama(32000 + added, width, layers, heads, heads, mlp, context=2048, eps=1e-6)
    return IdeficsConfig(
        vision=vision, connector=resampler, language=language, gates=gates, image_token_id=32001, added_words=added
    )


PRESETS = {
    "idefics_9b": _idefics(4096, 32, 32, 11008),
    "idefics_80b": _idefics(8192, 80, 64, 22016),
    "idefics_9b_instruct": _idefics(4096, 32, 32, 11008, instruct=True),
    "idefics_80b_instruct": _idefics(8192, 80, 64, 22016, instruct=True),
}


def processor(config: IdeficsConfig, parts: Parts) -> InterleavedProcessor:
    """The whole picture, stretched to the tower's square; its place is one word between two fake tokens."""
    settings = dict(parts.pictures or {})
    if "image_size" in settings:  # the published class's own spelling
        side = settings.pop("image_size")
        settings |= {"image_processor_type": "BlipImageProcessor", "size": {"height": side, "width": side}}
        settings.pop("image_num_channels", None)
    parts = Parts(parts.tokenizer, settings or None, parts.template, parts.settings, parts.folder)
    pictures = picture_processor(parts, "BlipImageProcessor", config.vision.image_size)
    return InterleavedProcessor(
        parts.tokenizer,
        ResampledPictures.of(pictures, 1),
        UTTERANCE,
        template=parts.template or TEMPLATE,
        image_token=parts.tokenizer.id_to_token(config.image_token_id),
        max_length=config.language.context_length,
        settings=parts.settings,
        wrap=(FAKE, FAKE),
    )


def tiny() -> tuple[IdeficsConfig, InterleavedProcessor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("opt", image_token=FAKE, controls=("<image>",))  # in the published order
    config = IdeficsConfig(
        vision=tower(32, 8, 32, 2, 2, 64),
        connector=ResamplerConfig(
            input_dim=32,
            output_dim=None,
            num_latents=4,
            num_layers=2,
            num_heads=2,
            head_dim=8,
            mlp_dim=128,
            act="relu",
            qk_norm=True,
        ),
        language=llama(len(tokenizer), 48, 4, 4, 4, 96, context=512, eps=1e-6),
        gates=GatesConfig(
            every=2,
            first=0,
            num_heads=4,
            head_dim=12,
            mlp_dim=96,
            act="silu",
            norm_eps=1e-6,
            rms_norm=True,
            gated_mlp=True,
            qk_norm=True,
        ),
        image_token_id=tokenizer.token_to_id("<image>") or 0,
        added_words=2,
        end_id=tokenizer.eos_id or 0,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="idefics",
        summary="An open Flamingo on LLaMA: resampled pictures through gated cross-attention",
        paper="Laurençon et al. 2023, OBELICS: An Open Web-Scale Filtered Dataset of Interleaved Image-Text Documents",
        capabilities=("generate", "score"),
        config_type=IdeficsConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
