"""MiniGPT-4 (Zhu et al. 2023, "Enhancing Vision-Language Understanding with Advanced Large Language Models").

BLIP-2's frozen tower and Q-Former, one trained affine map to Vicuna (§3). The map is the Q-Former's own projection
here: it is all that published checkpoints hold (``llama_proj``).
"""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.connectors.choice import Connector
from chiasm.connectors.qformer import QFormerConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.bridge import BridgedLM, BridgedSeq2Seq, build_bridge
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, eva_tower, llama
from chiasm.models.bridging import bridged_processor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.vision.cells import CellTowerConfig
from chiasm.vision.patches import FinalStates
from chiasm.vision.vit import ViTConfig

TRAINED = ("connector.proj.",)  # what both stages train
# "###Human: <Img>picture</Img> words ###Assistant: " (§3.2); "###" ends a turn
TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{ '###Human: ' }}{%- endif -%}
{%- if message.role == 'assistant' -%}{{ '###Assistant: ' }}{%- endif -%}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<Img><image></Img> ' }}{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ eos_token if message.role == 'assistant' else ' ' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '###Assistant: ' }}{%- endif -%}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniGpt4Config:
    """A MiniGPT-4.

    Attributes:
        vision: EVA's tower.
        connector: BLIP-2's Q-Former and the trained map; any other connector fits as well.
        language: Vicuna.
        image_token_id: id of a picture slot.
        reading: which of the tower's states are features.
    """

    vision: ViTConfig | CellTowerConfig
    connector: Connector
    language: DecoderConfig
    image_token_id: int
    reading: FinalStates = FinalStates()

    def build(self) -> BridgedLM | BridgedSeq2Seq:
        """A model with random weights."""
        return build_bridge(self)


def _minigpt4(width: int, layers: int, heads: int, mlp: int) -> MiniGpt4Config:
    vision = eva_tower(224)
    language = llama(32001, width, layers, heads, heads, mlp, context=2048, eps=1e-6)
    connector = QFormerConfig(input_dim=vision.hidden_dim, output_dim=width)
    return MiniGpt4Config(vision=vision, connector=connector, language=language, image_token_id=32000)


PRESETS = {"minigpt4_7b": _minigpt4(4096, 32, 32, 11008), "minigpt4_13b": _minigpt4(5120, 40, 40, 13824)}


def processor(config: MiniGpt4Config, parts: Parts) -> Processor:
    """The whole picture, stretched to the tower's square."""
    return bridged_processor(config, config.image_token_id, parts, "BlipImageProcessor", template=TEMPLATE)


def tiny() -> tuple[MiniGpt4Config, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("opt")
    config = MiniGpt4Config(
        vision=eva_tower(32, patch=8, width=32, layers=2, heads=2, mlp=64),
        connector=QFormerConfig(
            input_dim=32, output_dim=48, num_queries=4, hidden_dim=24, num_layers=2, num_heads=2, mlp_dim=48
        ),
        language=llama(len(tokenizer), 48, 2, 4, 4, 96, context=512),
        image_token_id=tokenizer.token_to_id("<image>") or 0,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="minigpt4",
        summary="BLIP-2's frozen tower and Q-Former through one trained affine map into a frozen Vicuna",
        paper="Zhu et al. 2023, MiniGPT-4: Enhancing Vision-Language Understanding with Advanced Large Language Models",
        capabilities=("generate", "score"),
        config_type=MiniGpt4Config,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
