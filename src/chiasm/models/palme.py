"""PaLM-E (Driess et al. 2023, "PaLM-E: An Embodied Multimodal Language Model").

A ViT's patches through one affine map into PaLM's stream of tokens (§3), anywhere in the text; a plan is written as
text. Labels such as `Object 1 is <picture>` are words of the prompt.

Departure: of the paper's encoders the ViT is built; state vectors and slots (OSRT) are not.
"""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.connectors.choice import Connector
from chiasm.connectors.linear import LinearConnectorConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.bridge import BridgedLM, BridgedSeq2Seq, build_bridge
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, vit
from chiasm.models.bridging import bridged_processor
from chiasm.models.languages import palm
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.vision.cells import CellTowerConfig
from chiasm.vision.patches import FinalStates
from chiasm.vision.vit import ViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PalmEConfig:
    """A PaLM-E.

    Attributes:
        vision: the tower.
        connector: an affine map; any other connector fits as well.
        language: PaLM.
        image_token_id: id of a picture slot.
        reading: which of the tower's states are features.
    """

    vision: ViTConfig | CellTowerConfig
    connector: Connector
    language: DecoderConfig
    image_token_id: int
    reading: FinalStates = FinalStates(keep_class_token=False)

    def build(self) -> BridgedLM | BridgedSeq2Seq:
        """A model with random weights."""
        return build_bridge(self)


def tower(image: int, patch: int, width: int, layers: int, heads: int, mlp: int) -> ViTConfig:
    """The plain ViT of scaling studies: no class token, GELU."""
    return vit(image, patch, width, layers, heads, mlp, class_token=False)


def _palme(vision: ViTConfig, width: int, layers: int, heads: int) -> PalmEConfig:
    language = palm(256001, width, layers, heads)
    connector = LinearConnectorConfig(input_dim=vision.hidden_dim, output_dim=width)
    return PalmEConfig(vision=vision, connector=connector, language=language, image_token_id=256000)


_VIT_4B = tower(224, 14, 1792, 56, 16, 15360)
_VIT_22B = tower(224, 14, 6144, 48, 48, 24576)
PRESETS = {
    "palm_e_12b": _palme(_VIT_4B, 4096, 32, 16),
    "palm_e_84b": _palme(_VIT_22B, 8192, 64, 32),
    "palm_e_562b": _palme(_VIT_22B, 18432, 118, 48),
}


def processor(config: PalmEConfig, parts: Parts) -> Processor:
    """The whole picture, stretched to the tower's square."""
    return bridged_processor(config, config.image_token_id, parts, "SiglipImageProcessor")


def tiny() -> tuple[PalmEConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("opt")
    config = PalmEConfig(
        vision=tower(32, 8, 32, 2, 2, 64),
        connector=LinearConnectorConfig(input_dim=32, output_dim=48),
        language=palm(len(tokenizer), 48, 2, 4, head_dim=16, context=512),
        image_token_id=tokenizer.token_to_id("<image>") or 0,
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="palme",
        summary="A ViT's patches through one affine map, anywhere in the text of a PaLM",
        paper="Driess et al. 2023, PaLM-E: An Embodied Multimodal Language Model",
        capabilities=("generate", "score"),
        config_type=PalmEConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
