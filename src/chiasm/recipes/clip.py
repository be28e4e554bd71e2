"""CLIP's recipes: InfoNCE from scratch on generated scenes, and the paper's (Radford et al. 2021, §2.5, table 18)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiasm.data.collation import Pairs
from chiasm.recipes.run import ModelConfig, Preset, Run, Source, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model

WIT = 400_000_000  # pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallClip(ModelConfig):
    """A small ViT and a small text transformer, both from scratch, over the words of captions of scenes.

    Attributes:
        image_size, patch_size: of the picture tower, in pixels.
        hidden_dim, num_layers: of the picture tower.
        text_dim, text_layers: of the text tower.
        embed_dim: E.
    """

    image_size: int = 96
    patch_size: int = 16
    hidden_dim: int = 128
    num_layers: int = 4
    text_dim: int = 128
    text_layers: int = 3
    embed_dim: int = 128

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.assembly import Parts, clip_tower
        from chiasm.models.clip import ClipConfig, text
        from chiasm.processing.miniature import tiny_tokenizer
        from chiasm.recipes.running.building import assemble, spoken

        tokenizer = tiny_tokenizer("clip", merges=600, corpus=spoken())
        width, layers = self.hidden_dim, self.num_layers
        config = ClipConfig(
            vision=clip_tower(self.image_size, self.patch_size, width, layers, width // 32),
            language=text(self.text_dim, layers=self.text_layers, vocab=len(tokenizer), heads=self.text_dim // 32),
            embed_dim=self.embed_dim,
        )
        return assemble(family, config, Parts(tokenizer), seed=seed)


@recipe(family="clip", scale="pico", needs="generated scenes")
def clip_pico() -> Run:
    """A CLIP of 1.6 million parameters that finds a scene by its caption."""
    from chiasm.objectives.pairs import InfoNCE

    return Run(
        model=SmallClip(),
        data=(Source(name="scenes:train:captions?size=96&nouns=24"),),
        collate=Pairs(),
        objective=InfoNCE(),
        steps=400,
        batch_size=64,
        optimizer=AdamW(betas=(0.9, 0.98), eps=1e-6),
        schedule=Cosine(warmup=0.1),
        groups=(Group(learning_rate=1e-3, weight_decay=0.1),),
    )


@recipe(family="clip", scale="nano", needs="packs: chiasm data pull stamps, clipart and openmoji")
def clip_nano() -> Run:
    """A CLIP with a ViT of 22 million parameters on some ten thousand real pictures."""
    model = SmallClip(image_size=224, hidden_dim=384, num_layers=12, text_dim=256, text_layers=6, embed_dim=256)
    packs = (Source(name="stamps", weight=4.0), Source(name="openmoji"), Source(name="clipart", weight=0.7))
    return replace(clip_pico(), model=model, data=packs, steps=5000, batch_size=256, accumulate=1, checkpoint_every=250)


def _paper(preset: str, learning_rate: float) -> Run:
    from chiasm.objectives.pairs import InfoNCE

    return Run(
        model=Preset(name=preset),
        data=(Source(name="pairs"),),
        collate=Pairs(),
        objective=InfoNCE(),
        steps=32 * WIT // 32768,  # 32 epochs
        batch_size=32768,
        checkpoint_every=1000,
        optimizer=AdamW(betas=(0.9, 0.98), eps=1e-6),
        schedule=Cosine(warmup=2000),
        groups=(Group(learning_rate=learning_rate, weight_decay=0.2),),
        clip=None,
        bf16=True,
        recompute=True,
    )


PAPER = "400 million pairs at data; model.processing names a folder with CLIP's tokenizer"


@recipe(family="clip", scale="paper", needs=PAPER)
def clip_vit_b_32_paper() -> Run:
    """CLIP ViT-B/32."""
    return _paper("clip_vit_b_32", 5e-4)


@recipe(family="clip", scale="paper", needs=PAPER)
def clip_vit_l_14_paper() -> Run:
    """CLIP ViT-L/14."""
    return _paper("clip_vit_l_14", 4e-4)


@recipe(family="clip", scale="paper", needs=PAPER)
def clip_rn50_paper() -> Run:
    """CLIP ResNet-50: another β₂ and ε."""
    return replace(_paper("clip_rn50", 5e-4), optimizer=AdamW(betas=(0.9, 0.999), eps=1e-8))


@recipe(family="clip", scale="paper", needs=PAPER + "; init_from names clip_vit_l_14_paper's run")
def clip_vit_l_14_336_paper() -> Run:
    """One more epoch of ViT-L/14 at 336 pixels."""
    run = replace(_paper("clip_vit_l_14_336", 2e-5), after="clip_vit_l_14_paper")
    return replace(run, steps=WIT // 32768)
