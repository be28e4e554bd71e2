"""Kimi-VL (Kimi Team 2025, "Kimi-VL Technical Report").

MoonViT (§2.1) at native resolution, 2×2 patches joined by a two-layer projector, and Moonlight: latent attention and
a mixture of 64 experts, six a token, with two shared ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.connectors.patch_merger import PatchMergerConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.native_splice import NativeSplicedLM
from chiasm.language.mixture import MixtureDecoderConfig
from chiasm.models.assembly import Parts
from chiasm.nn.mla import LatentShape
from chiasm.nn.moe import SigmoidRouterConfig
from chiasm.nn.positions import RotaryConfig
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.packed_processor import PackedImageProcessor
from chiasm.processing.processor import Processor
from chiasm.vision.native import NativeViTConfig

CONTROLS = ("<|media_start|>", "<|media_content|>", "<|media_end|>")
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' -%}
{% generation %}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}{%- endif -%}
{{ '<|im_end|>' }}{% endgeneration %}
{%- else -%}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{ '<|media_start|>image<|media_content|><|media_pad|><|media_end|>' }}
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class KimiVLConfig:
    """A Kimi-VL.

    Attributes:
        vision: MoonViT.
        connector: the projector.
        language: Moonlight.
        image_token_id: id of a picture slot.
    """

    vision: NativeViTConfig
    connector: PatchMergerConfig
    language: MixtureDecoderConfig
    image_token_id: int

    def build(self) -> KimiVL:
        """A model with random weights."""
        return KimiVL(self)


class KimiVL(NativeSplicedLM):
    """vision → connector → language."""

    def __init__(self, config: KimiVLConfig) -> None:
        super().__init__(config.vision.build(), config.connector.build(), config.language.build())
        self.config = config


def moon_vit(width: int, layers: int, heads: int, mlp: int, *, patch: int = 14, grid: int = 64) -> NativeViTConfig:
    """MoonViT by its numbers."""
    return NativeViTConfig(
        patch_size=patch, frames=1, hidden_dim=width, num_layers=layers, num_heads=heads, mlp_dim=mlp,
        act="gelu_pytorch_tanh", norm_eps=1e-5, patch_bias=True, learned_grid=grid, interleaved=True, final_norm=True,
    )  # fmt: skip


MOONLIGHT_16B = MixtureDecoderConfig(
    vocab_size=163840,
    hidden_dim=2048,
    num_layers=27,
    num_heads=16,
    num_kv_heads=16,
    mlp_dim=11264,
    context_length=131072,
    norm_eps=1e-5,
    rotary=RotaryConfig(theta=8e5),
    num_experts=64,
    top_k=6,
    expert_dim=1408,
    shared_dim=2816,
    router=SigmoidRouterConfig(scale=2.446),
    dense_layers=1,
    latent=LatentShape(latent_dim=512, query_latent_dim=None, nope_dim=128, rope_dim=64, value_dim=128),
)
PRESETS = {
    "kimi_vl_a3b": KimiVLConfig(
        vision=moon_vit(1152, 27, 16, 4304),
        connector=PatchMergerConfig(input_dim=1152, output_dim=2048, norm_eps=1e-5),
        language=MOONLIGHT_16B,
        image_token_id=163605,
    )
}


def processor(config: KimiVLConfig, parts: Parts) -> Processor:
    """Pictures at native resolution."""
    vision = config.vision
    settings = dict(parts.pictures or {"in_token_limit": 4096 if vision.patch_size == 14 else 256})
    # the folder's own file names a class of its remote code; these are its settings under a name of ours
    settings["image_processor_type"] = "KimiVLImageProcessor"
    settings.setdefault("patch_size", vision.patch_size)
    settings.setdefault("merge_kernel_size", [vision.merge, vision.merge])
    pictures = PackedImageProcessor.from_settings(settings, frames=vision.frames)
    tokens = parts.tokenizer
    return Processor(
        tokens,
        pictures,
        template=parts.template,
        image_token=tokens.id_to_token(config.image_token_id),
        max_length=config.language.context_length,
        settings={"processor_class": "KimiVLProcessor", **parts.settings},
    )


def tiny() -> tuple[KimiVLConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml", image_token="<|media_pad|>", controls=CONTROLS)
    language = MixtureDecoderConfig(
        vocab_size=len(tokenizer), hidden_dim=48, num_layers=3, num_heads=4, num_kv_heads=4, mlp_dim=96,
        context_length=2048, norm_eps=1e-5, num_experts=8, top_k=3, expert_dim=16, shared_dim=32,
        router=SigmoidRouterConfig(groups=4, top_groups=2, scale=2.446), dense_layers=1,
        latent=LatentShape(latent_dim=24, query_latent_dim=20, nope_dim=8, rope_dim=4, value_dim=10),
    )  # fmt: skip
    config = KimiVLConfig(
        vision=moon_vit(32, 3, 2, 64, patch=4, grid=8),
        connector=PatchMergerConfig(input_dim=32, output_dim=48, norm_eps=1e-5),
        language=language,
        image_token_id=tokenizer.token_to_id("<|media_pad|>") or 0,
    )
    return config, processor(config, Parts(tokenizer, template=TEMPLATE))


FAMILY: Family = register(
    Family(
        name="kimi_vl",
        summary="MoonViT at native resolution; latent attention and a mixture of experts",
        paper="Kimi Team 2025, Kimi-VL Technical Report",
        capabilities=("generate", "score"),
        config_type=KimiVLConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
