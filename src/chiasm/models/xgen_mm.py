"""xGen-MM, also BLIP-3 (Xue et al. 2024, "xGen-MM (BLIP-3): A Family of Open Large Multimodal Models").

SigLIP-So400m at 384 px, a Perceiver resampler with 128 latents at the tower's width, projected to Phi-3-mini (§2.1);
one loss, the next word of interleaved text.

Departure: one crop a picture, as in its pretraining; the crops at any resolution of its fine-tuned form aren't built.
"""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.connectors.choice import Connector
from chiasm.connectors.resampler import ResamplerConfig
from chiasm.core.registry import Family, register
from chiasm.fusion.bridge import BridgedLM, BridgedSeq2Seq, build_bridge
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts, llama
from chiasm.models.bridging import bridged_processor, unread
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import Processor
from chiasm.vision.patches import PatchSelection
from chiasm.vision.vit import ViTConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class XGenMMConfig:
    """An xGen-MM.

    Attributes:
        vision: SigLIP's tower.
        connector: the resampler; any other connector fits as well.
        language: Phi-3.
        image_token_id: id of a picture slot.
        reading: which of the tower's states are features.
    """

    vision: ViTConfig
    connector: Connector
    language: DecoderConfig
    image_token_id: int
    reading: PatchSelection = PatchSelection(layer=-1)

    @property
    def unread(self) -> tuple[str, ...]:
        """Parameters that take no part."""
        return unread(self)

    def build(self) -> BridgedLM | BridgedSeq2Seq:
        """A model with random weights."""
        return build_bridge(self)


def tower(image: int, patch: int, width: int, layers: int, heads: int, mlp: int) -> ViTConfig:
    """SigLIP's ViT, read as patches."""
    return ViTConfig(
        image_size=image,
        patch_size=patch,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        mlp_dim=mlp,
        act="gelu_pytorch_tanh",
        norm_eps=1e-6,
        class_token=False,
        norm_pre=False,
        patch_bias=True,
        attention_pool=False,
    )


def _xgen() -> XGenMMConfig:
    vision = tower(384, 14, 1152, 27, 16, 4304)
    connector = ResamplerConfig(
        input_dim=1152, output_dim=3072, num_latents=128, num_heads=16, head_dim=96, mlp_dim=4608
    )
    language = llama(32066, 3072, 32, 32, 32, 8192, context=4096)
    return XGenMMConfig(vision=vision, connector=connector, language=language, image_token_id=32011)


PRESETS = {"xgen_mm_phi3_mini": _xgen()}


def processor(config: XGenMMConfig, parts: Parts) -> Processor:
    """The whole picture, stretched to the tower's square."""
    return bridged_processor(config, config.image_token_id, parts, "SiglipImageProcessor")


def tiny() -> tuple[XGenMMConfig, Processor]:
    """A miniature with every part of the real one."""
    tokenizer = tiny_tokenizer("chatml")
    config = XGenMMConfig(
        vision=tower(32, 8, 32, 2, 2, 64),
        connector=ResamplerConfig(
            input_dim=32, output_dim=48, num_latents=4, num_layers=2, num_heads=2, head_dim=8, mlp_dim=64
        ),
        language=llama(len(tokenizer), 48, 2, 4, 4, 96, context=2048),
        image_token_id=tokenizer.token_to_id("<image>") or 0,
    )
    return config, processor(config, Parts(tokenizer, template=tokenizer.chat_template))


FAMILY: Family = register(
    Family(
        name="xgen_mm",
        summary="SigLIP's patches through a Perceiver resampler into Phi-3",
        paper="Xue et al. 2024, xGen-MM (BLIP-3): A Family of Open Large Multimodal Models",
        capabilities=("generate", "score"),
        config_type=XGenMMConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
