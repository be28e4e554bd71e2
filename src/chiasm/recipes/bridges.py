"""Recipes of the language models given eyes: one frozen tower, one frozen language model, and each answer between them.

At pico scale every family stands over the same parts, `clip_pico`'s tower and the pico language model, and differs in
its connector alone: `--set model.connector=…` swaps it. Families whose training has stages are in `bridge_stages`, the
published sizes and schedules in `bridges_paper`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from chiasm.data.collation import Conversations
from chiasm.recipes.run import ModelConfig, Run, Source, Store, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from torch import nn

    from chiasm.models.assembly import Parts
    from chiasm.models.model import Model
    from chiasm.processing.tokenizer import Tokenizer

TOWER = ("^vision\\.",)  # of `clip_pico`; its text tower is none of ours
SCENES = "scenes:train:naming,position,counting,yes_no,attribute?size=96&nouns=24"


@dataclass(frozen=True)
class Eye:
    """A picture tower for a recipe's model.

    Attributes:
        config: its configuration.
        frozen: its weights under ``vision``; empty = new ones are drawn.
    """

    config: Any
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)

    def parts(self, tokenizer: Tokenizer, template: str | None = None) -> Parts:
        """The tokenizer, and pictures as the tower was taught to take them."""
        from chiasm.models.assembly import Parts

        return Parts(tokenizer, classifier_pictures(self.config.image_size) if self.frozen else None, template)


def classifier_pictures(side: int) -> dict[str, Any]:
    """Settings of the pictures that EfficientNet-Lite reads: stretched to a square, in −1…1."""
    return {
        "size": {"height": side, "width": side},
        "do_center_crop": False,
        "image_mean": [127 / 255] * 3,
        "image_std": [128 / 255] * 3,
        "image_processor_type": "SiglipImageProcessor",
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Bridged(ModelConfig):
    """A picture tower, a connector by name, and a language model that comes with weights.

    Attributes:
        connector: ``linear``, ``mlp``, ``pooled``, ``prefix``, ``qformer``, ``resampler``, ``grid`` or ``latents``.
        tower: ``efficientnet_lite0`` or ``efficientnet_lite2``, whose cells come with weights; None = a small new ViT.
        image_size, patch_size, num_layers: of the new ViT.
        hidden_dim: its width, and that of attention and MLPs inside the connector.
        tokens: visual tokens a picture, where the connector decides; a square number for ``grid`` and ``pooled``.
        language: ``pico_text`` or ``smollm2``.
    """

    connector: str = "qformer"
    tower: str | None = None
    image_size: int = 96
    patch_size: int = 16
    hidden_dim: int = 128
    num_layers: int = 4
    tokens: int = 16
    language: str = "pico_text"

    def build(self, family: str, seed: int) -> Model:
        from chiasm.core.registry import family as known_family
        from chiasm.recipes.running.building import assemble, speaking
        from chiasm.vision.patches import FinalStates

        language, tokenizer, template = speaking(self.language)
        eye = self.eye()
        config = known_family(family).config_type(
            vision=eye.config,
            connector=self.joint(eye, language.config.hidden_dim),
            language=language.config,
            image_token_id=tokenizer.token_to_id("<image>") or 0,
        )
        # every connector gets the same features: the grid of patches
        reading = FinalStates() if self.tower else config.reading
        config = replace(config, reading=replace(reading, keep_class_token=False))
        frozen = {"language": language, **eye.frozen}
        return assemble(family, config, eye.parts(tokenizer, template), seed=seed, frozen=frozen)

    def eye(self) -> Eye:
        """The tower."""
        from chiasm.models.assembly import clip_tower
        from chiasm.weights.frozen import cell_tower

        if self.tower is None:
            width = self.hidden_dim
            return Eye(clip_tower(self.image_size, self.patch_size, width, self.num_layers, width // 32))
        cells = cell_tower(self.tower)
        return Eye(cells.config, {"vision": cells})

    def joint(self, eye: Eye, output: int, name: str | None = None) -> Any:
        """The connector called `name`, or this one's own, from the tower's features to `output`."""
        return connector_by_name(name or self.connector, eye.config.hidden_dim, output, self.tokens, self.hidden_dim)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated(Bridged):
    """The same with gated cross-attention instead of a splice.

    Attributes:
        every: a gated layer stands before each so-manieth layer of the language model.
    """

    connector: str = "resampler"
    every: int = 2

    def build(self, family: str, seed: int) -> Model:
        from chiasm.recipes.running.building import assemble, speaking
        from chiasm.vision.patches import FinalStates

        language, tokenizer, template = speaking(self.language)
        eye = self.eye()
        language, config = self.gated(eye, language, tokenizer)
        if self.tower:
            config = replace(config, reading=FinalStates(keep_class_token=False))
        frozen = {"language": language, **eye.frozen}
        return assemble(family, config, eye.parts(tokenizer, template), seed=seed, frozen=frozen)

    def gated(self, eye: Eye, language: Any, tokenizer: Any) -> tuple[Any, Any]:
        """The language model as this family takes it, and the family's configuration around it and the tower."""
        from chiasm.models.flamingo import FlamingoConfig

        if len(tokenizer) > language.config.vocab_size:  # `<image>` is read as a word here
            language = with_words(language, len(tokenizer))
        return language, FlamingoConfig(**self.shared(eye, language.config, tokenizer))

    def shared(self, eye: Eye, language: Any, tokenizer: Any) -> dict[str, Any]:
        """What Flamingo's configuration and IDEFICS's have in common."""
        from chiasm.connectors.resampler import ResamplerConfig
        from chiasm.fusion.gated_cross_attention import GatesConfig

        inner = language.hidden_dim
        resampler = self.joint(eye, inner, "resampler")
        assert isinstance(resampler, ResamplerConfig)
        return {
            "vision": eye.config,
            "connector": replace(resampler, output_dim=None),
            "language": language,
            "gates": GatesConfig(every=self.every, first=self.every - 1, num_heads=4, head_dim=32, mlp_dim=2 * inner),
            "image_token_id": tokenizer.token_to_id("<image>") or 0,
        }


def with_words(language: Any, count: int) -> Any:
    """The language model with a vocabulary of `count` words; new ones start as the mean of the others."""
    from torch import no_grad

    wider = replace(language.config, vocab_size=count).build().requires_grad_(False)
    own = wider.state_dict()
    with no_grad():
        for name, tensor in language.state_dict().items():
            own[name][: len(tensor)] = tensor
            own[name][len(tensor) :] = tensor.mean(0)
    return wider


def connector_by_name(name: str, width: int, output: int, tokens: int, inner: int | None = None) -> Any:
    """A small connector from features of `width` to `output`, making `tokens` of a picture where it decides.

    Args:
        name: see `Bridged`.
        width, output, tokens: its shape.
        inner: width of attention and MLPs inside; None = the features'.

    Raises:
        ConfigError: no such connector; the known ones are listed.
    """
    from chiasm.connectors.cross_attention_resampler import GridResamplerConfig, LatentAttentionConfig
    from chiasm.connectors.linear import LinearConnectorConfig
    from chiasm.connectors.mlp import MLPConnectorConfig
    from chiasm.connectors.pooled import PooledConfig
    from chiasm.connectors.prefix import PrefixConfig
    from chiasm.connectors.qformer import QFormerConfig
    from chiasm.connectors.resampler import ResamplerConfig
    from chiasm.core.errors import ConfigError

    inner = inner or width
    ends: dict[str, Any] = {"input_dim": width, "output_dim": output}
    made = {
        "linear": lambda: LinearConnectorConfig(**ends),
        "mlp": lambda: MLPConnectorConfig(**ends),
        "pooled": lambda: PooledConfig(**ends, grid=round(tokens**0.5)),
        "prefix": lambda: PrefixConfig(**ends, num_tokens=2),
        "qformer": lambda: QFormerConfig(
            **ends, num_queries=tokens, hidden_dim=inner, num_layers=4, num_heads=inner // 32, mlp_dim=4 * inner
        ),
        "resampler": lambda: ResamplerConfig(
            **ends, num_latents=tokens, num_layers=2, num_heads=inner // 32, head_dim=32, mlp_dim=4 * inner
        ),
        "grid": lambda: GridResamplerConfig(**ends, grid=round(tokens**0.5), num_heads=4),
        "latents": lambda: LatentAttentionConfig(**ends, num_latents=tokens, num_heads=4),
    }
    if name not in made:
        raise ConfigError("connector_unknown", f"connector {name!r} is not one of {', '.join(made)}")
    return made[name]()


def pico(model: ModelConfig, learn: tuple[str, ...] = ("^connector\\.",)) -> Run:
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=model,
        after="clip_pico",
        inherit=TOWER,
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
    return pico(Bridged(connector="qformer"))


@recipe(family="qwen_vl", scale="pico", needs="generated scenes")
def qwen_vl_pico() -> Run:
    """One cross-attention from a grid of queries."""
    return pico(Bridged(connector="grid"))


@recipe(family="xgen_mm", scale="pico", needs="generated scenes")
def xgen_mm_pico() -> Run:
    """A Perceiver resampler, projected."""
    return pico(Bridged(connector="resampler"))


@recipe(family="kosmos", scale="pico", needs="generated scenes")
def kosmos_pico() -> Run:
    """One attention of latents."""
    return pico(Bridged(connector="latents"))


@recipe(family="palme", scale="pico", needs="generated scenes")
def palme_pico() -> Run:
    """One affine map."""
    return pico(Bridged(connector="linear"))


@recipe(family="flamingo", scale="pico", needs="generated scenes")
def flamingo_pico() -> Run:
    """Gated cross-attention before every second layer of the frozen pico language model."""
    return pico(Gated(), ("^connector\\.", "^gates\\."))
