"""Recipes of the language models given eyes: one frozen tower, one frozen language model, and each answer between them.

At pico scale every family stands over the same parts, `clip_pico`'s tower and the pico language model, and differs in
its connector alone: `--set model.connector=…` swaps it. Paper scale (Li et al. 2023, §4 and table 12; Dai et al. 2023,
§3.4; Zhu et al. 2023, §3; Alayrac et al. 2022, app. B.1): the published sizes and schedules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chiasm.data.collation import Conversations, Pairs
from chiasm.recipes.run import ModelConfig, Preset, Run, Source, Store, recipe
from chiasm.training.config import AdamW, Constant, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model

SCENES = "scenes:train:naming,position,counting,yes_no,attribute?size=96&nouns=24"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bridged(ModelConfig):
    """A small ViT, a connector by name, and a language model that comes with weights.

    Attributes:
        connector: ``linear``, ``mlp``, ``prefix``, ``qformer``, ``resampler``, ``grid`` or ``latents``.
        image_size, patch_size, hidden_dim, num_layers: of the picture tower.
        tokens: visual tokens a picture, where the connector decides; a square number for ``grid``.
        language: ``pico_text`` or ``smollm2``.
    """

    connector: str = "qformer"
    image_size: int = 96
    patch_size: int = 16
    hidden_dim: int = 128
    num_layers: int = 4
    tokens: int = 16
    language: str = "pico_text"

    def build(self, family: str, seed: int) -> Model:
        from chiasm.core.registry import family as known_family
        from chiasm.models.assembly import Parts, clip_tower
        from chiasm.recipes.running.building import assemble, speaking

        language, tokenizer, template = speaking(self.language)
        width = self.hidden_dim
        config = known_family(family).config_type(
            vision=clip_tower(self.image_size, self.patch_size, width, self.num_layers, width // 32),
            connector=connector_by_name(self.connector, width, language.config.hidden_dim, self.tokens),
            language=language.config,
            image_token_id=tokenizer.token_to_id("<image>") or 0,
        )
        # every connector gets the same features: the grid of patches
        config = replace(config, reading=replace(config.reading, keep_class_token=False))
        parts = Parts(tokenizer, template=template)
        return assemble(family, config, parts, seed=seed, frozen={"language": language})


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated(Bridged):
    """The same with gated cross-attention instead of a splice.

    Attributes:
        every: a gated layer stands before each so-manieth layer of the language model.
    """

    connector: str = "resampler"
    every: int = 2

    def build(self, family: str, seed: int) -> Model:
        from dataclasses import replace as with_fields

        from chiasm.connectors.resampler import ResamplerConfig
        from chiasm.fusion.gated_cross_attention import GatesConfig
        from chiasm.models.assembly import Parts, clip_tower
        from chiasm.models.flamingo import FlamingoConfig
        from chiasm.recipes.running.building import assemble, speaking

        language, tokenizer, template = speaking(self.language)
        width, inner = self.hidden_dim, language.config.hidden_dim
        resampler = connector_by_name("resampler", width, inner, self.tokens)
        assert isinstance(resampler, ResamplerConfig)
        config = FlamingoConfig(
            vision=clip_tower(self.image_size, self.patch_size, width, self.num_layers, width // 32),
            connector=with_fields(resampler, output_dim=None),
            language=language.config,
            gates=GatesConfig(every=self.every, first=self.every - 1, num_heads=4, head_dim=32, mlp_dim=2 * inner),
            image_token_id=tokenizer.token_to_id("<image>") or 0,
        )
        parts = Parts(tokenizer, template=template)
        return assemble(family, config, parts, seed=seed, frozen={"language": language})


def connector_by_name(name: str, width: int, output: int, tokens: int) -> Any:
    """A small connector from features of `width` to `output`, making `tokens` of a picture where it decides.

    Raises:
        ConfigError: no such connector; the known ones are listed.
    """
    from chiasm.connectors.cross_attention_resampler import GridResamplerConfig, LatentAttentionConfig
    from chiasm.connectors.linear import LinearConnectorConfig
    from chiasm.connectors.mlp import MLPConnectorConfig
    from chiasm.connectors.prefix import PrefixConfig
    from chiasm.connectors.qformer import QFormerConfig
    from chiasm.connectors.resampler import ResamplerConfig
    from chiasm.core.errors import ConfigError

    ends: dict[str, Any] = {"input_dim": width, "output_dim": output}
    made = {
        "linear": lambda: LinearConnectorConfig(**ends),
        "mlp": lambda: MLPConnectorConfig(**ends),
        "prefix": lambda: PrefixConfig(**ends, num_tokens=2),
        "qformer": lambda: QFormerConfig(
            **ends, num_queries=tokens, hidden_dim=width, num_layers=4, num_heads=width // 32, mlp_dim=4 * width
        ),
        "resampler": lambda: ResamplerConfig(
            **ends, num_latents=tokens, num_layers=2, num_heads=width // 32, head_dim=32, mlp_dim=4 * width
        ),
        "grid": lambda: GridResamplerConfig(**ends, grid=round(tokens**0.5), num_heads=4),
        "latents": lambda: LatentAttentionConfig(**ends, num_latents=tokens, num_heads=4),
    }
    if name not in made:
        raise ConfigError("connector_unknown", f"connector {name!r} is not one of {', '.join(made)}")
    return made[name]()


def _pico(model: ModelConfig, learn: tuple[str, ...] = ("^connector\\.",)) -> Run:
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=model,
        after="clip_pico",
        learn=learn,
        data=(Source(name=SCENES),),
        collate=Conversations(),
        objective=NextToken(),
        store=Store(),
        steps=400,
        batch_size=32,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=0.05),
        groups=(Group(learning_rate=1e-3),),
    )


@recipe(family="blip2", scale="pico", needs="generated scenes")
def blip2_pico() -> Run:
    """A Q-Former between `clip_pico`'s frozen tower and the frozen pico language model."""
    return _pico(Bridged(connector="qformer"))


@recipe(family="minigpt4", scale="pico", needs="generated scenes")
def minigpt4_pico_align() -> Run:
    """A Q-Former first, as BLIP-2 would leave it."""
    return _pico(Bridged(connector="qformer"))


@recipe(family="minigpt4", scale="pico", needs="generated scenes")
def minigpt4_pico() -> Run:
    """Then its projection alone."""
    return replace(minigpt4_pico_align(), after="minigpt4_pico_align", learn=("^connector\\.proj\\.",), steps=100)


@recipe(family="qwen_vl", scale="pico", needs="generated scenes")
def qwen_vl_pico() -> Run:
    """One cross-attention from a grid of queries."""
    return _pico(Bridged(connector="grid"))


@recipe(family="xgen_mm", scale="pico", needs="generated scenes")
def xgen_mm_pico() -> Run:
    """A Perceiver resampler, projected."""
    return _pico(Bridged(connector="resampler"))


@recipe(family="kosmos", scale="pico", needs="generated scenes")
def kosmos_pico() -> Run:
    """One attention of latents."""
    return _pico(Bridged(connector="latents"))


@recipe(family="palme", scale="pico", needs="generated scenes")
def palme_pico() -> Run:
    """One affine map."""
    return _pico(Bridged(connector="linear"))


@recipe(family="flamingo", scale="pico", needs="generated scenes")
def flamingo_pico() -> Run:
    """Gated cross-attention before every second layer of the frozen pico language model."""
    return _pico(Gated(), ("^connector\\.", "^gates\\."))


@recipe(family="blip2_retrieval", scale="paper", needs="129M pairs: COCO, VG, CC3M, CC12M, SBU, LAION115M")
def blip2_stage1_paper() -> Run:
    """The first stage on ViT-g: contrast, matching, captions; the tower is frozen."""
    from chiasm.objectives.querying import QueryingLosses

    return Run(
        model=Preset(name="blip2_stage1_vit_g"),
        freeze=("^vision\\.",),
        data=(Source(name="pairs"),),
        collate=Pairs(),
        objective=QueryingLosses(),
        steps=250_000,
        batch_size=1680,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=2000 / 250_000),
        groups=(Group(learning_rate=1e-4, weight_decay=0.05),),
    )


def _language_paper(preset: str, steps: int, batch: int, rate: float, warmup: int, learn: tuple[str, ...]) -> Run:
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=Preset(name=preset),
        learn=learn,
        data=(Source(name="pairs"),),
        collate=Conversations(),
        objective=NextToken(),
        steps=steps,
        batch_size=batch,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=warmup / steps),
        groups=(Group(learning_rate=rate, weight_decay=0.05),),
    )


@recipe(family="blip2", scale="paper", needs="129M pairs, the first stage's Q-Former")
def blip2_opt_2_7b_stage2_paper() -> Run:
    """The second stage over OPT-2.7B: tower and language model are frozen."""
    return _language_paper("blip2_opt_2_7b", 80_000, 1920, 1e-4, 2000, ("^connector\\.",))


@recipe(family="blip2", scale="paper", needs="129M pairs, the first stage's Q-Former")
def blip2_flan_t5_xl_stage2_paper() -> Run:
    """The second stage over Flan-T5-XL."""
    return _language_paper("blip2_flan_t5_xl", 80_000, 1520, 1e-4, 2000, ("^connector\\.",))


@recipe(family="instructblip", scale="paper", needs="13 held-in sets, drawn by the square root of their size")
def instructblip_vicuna_7b_paper() -> Run:
    """Instruction tuning of the Q-Former over Vicuna-7B."""
    return _language_paper("instructblip_vicuna_7b", 60_000, 128, 1e-5, 1000, ("^connector\\.",))


@recipe(family="minigpt4", scale="paper", needs="5M pairs: LAION, CC, SBU")
def minigpt4_7b_align_paper() -> Run:
    """The affine map on short captions."""
    return _language_paper("minigpt4_7b", 20_000, 256, 1e-4, 2000, ("^connector\\.proj\\.",))


@recipe(family="minigpt4", scale="paper", needs="3,500 detailed descriptions")
def minigpt4_7b_finetune_paper() -> Run:
    """The affine map on detailed descriptions."""
    return replace(
        minigpt4_7b_align_paper(),
        after="minigpt4_7b_align_paper",
        steps=1000,
        batch_size=12,
        schedule=Constant(),
        groups=(Group(learning_rate=3e-5, weight_decay=0.05),),
    )


@recipe(family="flamingo", scale="paper", needs="interleaved pages, pairs, videos in the paper's shares")
def flamingo_3b_paper() -> Run:
    """Resampler and gated layers of Flamingo-3B; tower and language model are frozen."""
    run = _language_paper("flamingo_3b", 500_000, 2048, 1e-4, 5000, ("^connector\\.", "^gates\\."))
    return replace(run, groups=(Group(learning_rate=1e-4, weight_decay=0.1),))
