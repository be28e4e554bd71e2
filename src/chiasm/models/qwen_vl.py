"""Qwen-VL (Bai et al. 2023, "A Versatile Vision-Language Model for Understanding, Localization, Text Reading").

OpenCLIP's ViT-bigG/14 at 448 px without its class token, one layer of cross-attention from a grid of 256 queries with
2D positions (§2.1), Qwen-7B. A picture stands between `<img>` and `</img>`; boxes are written as
`<ref>words</ref><box>(x1,y1),(x2,y2)</box>` on a grid of 1000. The tower learned 16×16 positions, which are stretched
to the 32×32 patches of the larger pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.connectors.choice import Connector
from chiasm.connectors.cross_attention_resampler import GridResamplerConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.bridge import BridgedLM, BridgedSeq2Seq, build_bridge
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, llama, vit
from chiasm.models.bridging import bridged_processor, unread
from chiasm.nn.positions import LogRotaryConfig, RotaryConfig
from chiasm.nn.rotary_scaling import DoublingScaling
from chiasm.processing.coordinates import GridBoxes
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.vision.cells import CellTowerConfig
from chiasm.vision.efficientnet import EfficientNetConfig
from chiasm.vision.patches import FinalStates, PatchSelection, PyramidCells
from chiasm.vision.vit import ViTConfig

WRAP = ("<img>", "</img>")
IMAGE_PAD = 151859  # `<imgpad>`, what stands for a visual token
_TURN = """\
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{%- set seen.count = seen.count + 1 -%}{{ 'Picture ' ~ seen.count ~ ': <imgpad>\\n' }}
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
"""
# Qwen-VL continues text; Qwen-VL-Chat answers in ChatML (appendix B.2)
PLAIN = "{%- set seen = namespace(count=0) -%}{%- for message in messages -%}" + _TURN + "{%- endfor -%}"
CHAT = (
    """\
{%- set seen = namespace(count=0) -%}
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' -%}{% generation %}
"""
    + _TURN
    + """\
{{ '<|im_end|>' }}{% endgeneration %}
{%- else -%}
"""
    + _TURN
    + """\
{{ '<|im_end|>' }}
{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
)
# a phrase as the published evaluation asks for it: the reply goes on inside the box
WHERE = """\
{%- for part in messages[0].content -%}
{%- if part.type == 'image' -%}<slot>{%- else -%}<ref>{{ part.text }}</ref><box>{%- endif -%}
{%- endfor -%}
"""
CONTROLS = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", *WRAP)


@dataclass(frozen=True, kw_only=True, slots=True)
class QwenVLConfig:
    """A Qwen-VL.

    Attributes:
        vision: the tower; the pico recipes put a convolutional one here.
        connector: the grid of queries; any other connector fits as well.
        language: Qwen.
        image_token_id: id of a picture slot.
        reading: which of the tower's states are features; its last norm stands behind the connector instead.
    """

    vision: ViTConfig | EfficientNetConfig | CellTowerConfig
    connector: Connector
    language: DecoderConfig
    image_token_id: int
    reading: PatchSelection | PyramidCells | FinalStates = PatchSelection(layer=-1)

    @property
    def unread(self) -> tuple[str, ...]:
        """Parameters that take no part."""
        return unread(self)

    def build(self) -> BridgedLM | BridgedSeq2Seq:
        """A model with random weights."""
        return build_bridge(self)


def tower(
    image: int, patch: int, width: int, layers: int, heads: int, mlp: int, positions: int | None = None
) -> ViTConfig:
    """OpenCLIP's ViT without a class token and without its last norm; `positions` along one side were learned."""
    return vit(
        image, patch, width, layers, heads, mlp, class_token=False, norm_pre=True, patch_bias=False, norm_post=False,
        position_grid=positions,
    )  # fmt: skip


def stretched(trained: int) -> RotaryConfig:
    """Qwen's rotary positions: beyond the context that they were trained in they turn slower, and queries grow."""
    return LogRotaryConfig(log_context=trained, scaling=DoublingScaling(original_context=trained))


def _qwen_vl(image: int) -> QwenVLConfig:
    vision = tower(image, 14, 1664, 48, 16, 8192, 16)
    language = llama(151936, 4096, 32, 32, 32, 11008, context=8192, eps=1e-6, qkv_bias=True, rotary=stretched(2048))
    connector = GridResamplerConfig(input_dim=1664, output_dim=4096)
    return QwenVLConfig(vision=vision, connector=connector, language=language, image_token_id=IMAGE_PAD)


PRESETS = {"qwen_vl_7b": _qwen_vl(448), "qwen_vl_7b_224": _qwen_vl(224)}  # the latter: the first stage of training


def processor(config: QwenVLConfig, parts: Parts) -> Processor:
    """The whole picture, stretched to the tower's square, its tokens between `<img>` and `</img>`."""
    wrap = WRAP if all(parts.tokenizer.token_to_id(token) is not None for token in WRAP) else None
    template = None
    if parts.folder is not None and (parts.folder / "qwen.tiktoken").is_file():  # published folders have none
        template = CHAT if parts.tokenizer.named.get("eos_token") == "<|im_end|>" else PLAIN
    return bridged_processor(config, config.image_token_id, parts, "BlipImageProcessor", template=template, wrap=wrap)


def tiny() -> tuple[QwenVLConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml", image_token="<imgpad>", controls=CONTROLS)
    config = QwenVLConfig(
        vision=tower(32, 8, 32, 2, 2, 64, 2),
        connector=GridResamplerConfig(input_dim=32, output_dim=48, grid=2, num_heads=4),
        language=llama(len(tokenizer), 48, 2, 4, 4, 96, context=2048, eps=1e-6, qkv_bias=True, rotary=stretched(512)),
        image_token_id=tokenizer.token_to_id("<imgpad>") or 0,
    )
    return config, processor(config, Parts(tokenizer, template=CHAT))


FAMILY: Family = register(
    Family(
        name="qwen_vl",
        summary="ViT-bigG through one cross-attention from a grid of queries into Qwen-7B",
        paper="Bai et al. 2023, Qwen-VL: A Versatile Vision-Language Model",
        capabilities=("generate", "score", "ground"),
        config_type=QwenVLConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
        places=GridBoxes(
            question="Locate {phrase}.", form="pairs", before="<box>", after="</box>", template=WHERE, controls=True
        ),
    )
)
