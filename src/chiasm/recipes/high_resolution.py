"""Pico recipes of the high-resolution and native-resolution families: each family's own wiring, small, on scenes.

Towers are new; the language model is the pico one with its weights where the family's layers can hold them: as they are
(InternVL, Molmo), with M-RoPE (Qwen2-VL, Qwen2.5-VL), with visual experts that start as copies (CogVLM, 2023,
§2.1), with low-rank additions that start at nothing (XComposer2). Kimi-VL's mixture with latent attention begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from chiasm.data.collation import Conversations
from chiasm.recipes.llava import SCENES
from chiasm.recipes.run import ModelConfig, Run, Source, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallHighResolution(ModelConfig):
    """A family's wiring around a small new tower and the pico language model.

    Attributes:
        hidden_dim, num_layers: of the tower.
        patch_size: pixels; two patches make a visual token's side.
        tile: pixels of a tile's or crop's side, in families that have them.
        tiles: most of them.
        language: ``pico_text`` or ``smollm2``.
    """

    hidden_dim: int = 128
    num_layers: int = 4
    patch_size: int = 8
    tile: int = 48
    tiles: int = 4
    language: str = "pico_text"

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.assembly import Parts
        from chiasm.recipes.running.building import assemble, speaking

        language, tokenizer, template = speaking(self.language)
        slot = tokenizer.token_to_id("<image>") or 0
        config, whole = _CONFIGS[family](self, language.config, slot)
        parts = Parts(tokenizer, _settings(family, self), template)
        model = assemble(family, config, parts, seed=seed, frozen={"language": language} if whole else None)
        if not whole and family != "kimi_vl":
            _begin_with(model.module.get_submodule("language"), language)
        return model

    def vit(self, side: int, **more: Any) -> Any:
        """A ViT of this size."""
        from chiasm.models.assembly import clip_tower

        width = self.hidden_dim
        return replace(clip_tower(side, self.patch_size, width, self.num_layers, width // 32), **more)

    def native(self, **more: Any) -> Any:
        """A tower at native resolution of this size."""
        from chiasm.vision.native import NativeViTConfig

        width = self.hidden_dim
        return NativeViTConfig(
            patch_size=self.patch_size, hidden_dim=width, num_layers=self.num_layers, num_heads=width // 32,
            mlp_dim=4 * width, **more,
        )  # fmt: skip


def _begin_with(language: Any, ready: Any) -> None:
    """Text weights as they are; visual experts as copies of them; low-rank additions at nothing."""
    state = ready.state_dict()
    for name, parameter in language.named_parameters():
        plain = name.replace("visual_mlp.", "mlp.").replace("visual_", "")
        if plain in state:
            parameter.data.copy_(state[plain])
        elif name.endswith(("lora_q.weight", "lora_k.weight", "lora_v.weight", ".up.weight")):
            parameter.data.zero_()


def _settings(family: str, size: SmallHighResolution) -> dict[str, Any] | None:
    unit = (2 * size.patch_size) ** 2
    if family in ("qwen2_vl", "qwen2_5_vl"):
        limits = {"shortest_edge": unit, "longest_edge": 64 * unit}
        return {"patch_size": size.patch_size, "merge_size": 2, "size": limits}
    return {"in_token_limit": 256, "patch_size": size.patch_size} if family == "kimi_vl" else None


def _as(kind: type, language: Any, **more: Any) -> Any:
    return kind(**{field.name: getattr(language, field.name) for field in fields(language)}, **more)


def _qwen(size: SmallHighResolution, language: Any, slot: int, *, second: bool) -> tuple[Any, bool]:
    from chiasm.connectors.patch_merger import PatchMergerConfig
    from chiasm.models.qwen2_5_vl import Qwen25VLConfig
    from chiasm.models.qwen2_vl import Qwen2VLConfig
    from chiasm.nn.positions import MultimodalRotaryConfig
    from chiasm.vision.native import WindowConfig

    half = language.head_width // 2
    sections = (half - 2 * (half // 3), half // 3, half // 3)
    language = replace(language, rotary=MultimodalRotaryConfig(theta=language.rotary.theta, sections=sections))
    connector = PatchMergerConfig(input_dim=size.hidden_dim, output_dim=language.hidden_dim, rms_norm=second)
    shared = {"connector": connector, "language": language, "image_token_id": slot, "video_token_id": slot}
    if second:
        windows = WindowConfig(side=4 * size.patch_size, full_layers=(size.num_layers - 1,))
        return Qwen25VLConfig(vision=size.native(act="silu", rms_norm=True, window=windows), **shared), True
    return Qwen2VLConfig(vision=size.native(act="quick_gelu"), **shared), True


def _internvl(size: SmallHighResolution, language: Any, slot: int) -> tuple[Any, bool]:
    from chiasm.connectors.pixel_shuffle import PixelShuffleConfig
    from chiasm.models.internvl import InternVLConfig

    vision = size.vit(size.tile, act="gelu", norm_pre=False, patch_bias=True, norm_post=False, layer_scale=0.1)
    connector = PixelShuffleConfig(input_dim=size.hidden_dim, output_dim=language.hidden_dim)
    shared = {"language": language, "image_token_id": slot, "max_tiles": size.tiles}
    return InternVLConfig(vision=vision, connector=connector, **shared), True


def _molmo(size: SmallHighResolution, language: Any, slot: int) -> tuple[Any, bool]:
    from chiasm.connectors.mean_query_pool import MeanQueryPoolConfig
    from chiasm.models.molmo import MolmoConfig

    width = size.hidden_dim
    connector = MeanQueryPoolConfig(
        input_dim=2 * width, pooled_dim=width, num_heads=width // 32, hidden_dim=2 * width,
        output_dim=language.hidden_dim,
    )  # fmt: skip
    return MolmoConfig(
        vision=size.vit(size.tile + 2 * size.patch_size, norm_post=False), connector=connector, language=language,
        image_token_id=slot, layers=(-1, -3), margin=2, max_crops=size.tiles,
    ), True  # fmt: skip


def _cogvlm(size: SmallHighResolution, language: Any, slot: int) -> tuple[Any, bool]:
    from chiasm.connectors.glu_adapter import GLUAdapterConfig
    from chiasm.fusion.routed_weights import ExpertDecoderConfig
    from chiasm.models.cogvlm import CogVLMConfig

    vision = size.vit(2 * size.tile, act="gelu", norm_pre=False, patch_bias=True, norm_post=False, sublayer_norm=True)
    adapter = GLUAdapterConfig(
        input_dim=size.hidden_dim, hidden_dim=language.mlp_dim, output_dim=language.hidden_dim, merge=2
    )
    experts = _as(ExpertDecoderConfig, language, visual_bias=True)
    return CogVLMConfig(vision=vision, connector=adapter, language=experts, image_token_id=slot), False


def _xcomposer(size: SmallHighResolution, language: Any, slot: int) -> tuple[Any, bool]:
    from chiasm.connectors.mlp import MLPConnectorConfig
    from chiasm.fusion.routed_weights import PartialLoraDecoderConfig
    from chiasm.models.xcomposer import XComposerConfig

    connector = MLPConnectorConfig(input_dim=4 * size.hidden_dim, output_dim=language.hidden_dim)
    low = _as(PartialLoraDecoderConfig, language, rank=16)
    shared = {"language": low, "image_token_id": slot, "max_tiles": size.tiles}
    return XComposerConfig(vision=size.vit(size.tile), connector=connector, **shared), False


def _kimi(size: SmallHighResolution, language: Any, slot: int) -> tuple[Any, bool]:
    from chiasm.connectors.patch_merger import PatchMergerConfig
    from chiasm.language.mixture import MixtureDecoderConfig
    from chiasm.models.kimi_vl import KimiVLConfig
    from chiasm.nn.mla import LatentShape
    from chiasm.nn.moe import SigmoidRouterConfig

    width = language.hidden_dim
    mixture = MixtureDecoderConfig(
        vocab_size=language.vocab_size, hidden_dim=width, num_layers=4, num_heads=4, num_kv_heads=4,
        mlp_dim=2 * width, context_length=language.context_length, norm_eps=1e-5, tie_embeddings=True,
        num_experts=8, top_k=2, expert_dim=width // 2, shared_dim=width // 2, router=SigmoidRouterConfig(),
        dense_layers=1,
        latent=LatentShape(latent_dim=width // 4, query_latent_dim=None, nope_dim=32, rope_dim=16, value_dim=32),
    )  # fmt: skip
    vision = size.native(
        act="gelu_pytorch_tanh", frames=1, norm_eps=1e-5, patch_bias=True, learned_grid=12, interleaved=True,
        final_norm=True,
    )  # fmt: skip
    connector = PatchMergerConfig(input_dim=size.hidden_dim, output_dim=width, norm_eps=1e-5)
    return KimiVLConfig(vision=vision, connector=connector, language=mixture, image_token_id=slot), False


_CONFIGS = {
    "qwen2_vl": lambda *given: _qwen(*given, second=False),
    "qwen2_5_vl": lambda *given: _qwen(*given, second=True),
    "internvl": _internvl,
    "molmo": _molmo,
    "cogvlm": _cogvlm,
    "xcomposer": _xcomposer,
    "kimi_vl": _kimi,
}


@recipe(family="qwen2_5_vl", scale="pico", needs="generated scenes")
def qwen2_5_vl_pico() -> Run:
    """A Qwen2.5-VL of a few million parameters that answers questions on scenes; the language model stays frozen."""
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=SmallHighResolution(),
        freeze=("^language\\.",),
        data=(Source(name=SCENES),),
        collate=Conversations(),
        objective=NextToken(),
        steps=300,
        batch_size=16,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=0.1),
        groups=(Group(pattern="^vision\\.", learning_rate=5e-4), Group(learning_rate=1e-3)),
    )


@recipe(family="qwen2_vl", scale="pico", needs="generated scenes")
def qwen2_vl_pico() -> Run:
    """A Qwen2-VL: every layer of the tower sees the whole picture."""
    return replace(qwen2_5_vl_pico())


@recipe(family="internvl", scale="pico", needs="generated scenes")
def internvl_pico() -> Run:
    """An InternVL: up to four tiles and a thumbnail of every scene."""
    return replace(qwen2_5_vl_pico())


@recipe(family="molmo", scale="pico", needs="generated scenes")
def molmo_pico() -> Run:
    """A Molmo: the whole scene and up to four overlapping crops."""
    return replace(qwen2_5_vl_pico())


@recipe(family="cogvlm", scale="pico", needs="generated scenes")
def cogvlm_pico() -> Run:
    """A CogVLM: the visual experts learn, the text's weights stay frozen."""
    return replace(qwen2_5_vl_pico(), freeze=(), learn=("^vision\\.", "^connector\\.", "visual_"))


@recipe(family="xcomposer", scale="pico", needs="generated scenes")
def xcomposer_pico() -> Run:
    """An InternLM-XComposer2: the low-rank additions learn, the rest of the language model stays frozen."""
    learn = ("^vision\\.", "^connector\\.", "^newline", "^separator", "lora_")
    return replace(qwen2_5_vl_pico(), freeze=(), learn=learn)


@recipe(family="kimi_vl", scale="pico", needs="generated scenes")
def kimi_vl_pico() -> Run:
    """A Kimi-VL: everything learns, the mixture of experts from nothing."""
    return replace(qwen2_5_vl_pico(), freeze=(), steps=400)
