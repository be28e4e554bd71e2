"""SigLIP's recipes: the sigmoid loss from scratch, and the paper's (Zhai et al. 2023, §4: 32k pairs, β₂ 0.95)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiasm.data.collation import Pairs
from chiasm.recipes.run import ModelConfig, Preset, Run, Source, Store, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallSiglip(ModelConfig):
    """Both towers small and from scratch, over the words of captions of scenes.

    Attributes:
        image_size, patch_size: of the picture tower, in pixels.
        hidden_dim, num_layers: of both towers.
        context_length: tokens of a text, padding included.
    """

    image_size: int = 96
    patch_size: int = 16
    hidden_dim: int = 128
    num_layers: int = 4
    context_length: int = 32

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.assembly import Parts
        from chiasm.models.siglip import siglip_config
        from chiasm.processing.miniature import tiny_tokenizer
        from chiasm.recipes.running.building import assemble, spoken

        tokenizer = tiny_tokenizer("siglip", corpus=spoken())
        width, layers = self.hidden_dim, self.num_layers
        config = siglip_config(
            self.image_size, self.patch_size, width, layers, width // 32, 4 * width, len(tokenizer), self.context_length
        )
        return assemble(family, config, Parts(tokenizer), seed=seed)


@recipe(family="siglip", scale="pico", needs="generated scenes")
def siglip_pico() -> Run:
    """A SigLIP of 1.8 million parameters that finds a scene by its caption."""
    from chiasm.objectives.pairs import PairwiseSigmoid

    return Run(
        model=SmallSiglip(),
        data=(Source(name="scenes:train:captions?size=96&nouns=24"),),
        collate=Pairs(),
        objective=PairwiseSigmoid(alike=True),  # short captions come more than once in a batch
        steps=400,
        batch_size=64,
        optimizer=AdamW(betas=(0.9, 0.95)),
        schedule=Cosine(warmup=0.1),
        groups=(Group(learning_rate=1e-3, weight_decay=1e-4),),
    )


@recipe(family="siglip", scale="pico", needs="generated scenes")
def siglip_pico_locked() -> Run:
    """Locked-image tuning (Zhai et al. 2022, "LiT"): `siglip_pico`'s picture tower, stored, and a new text tower."""
    run = replace(siglip_pico(), after="siglip_pico", inherit=("^vision\\.",), freeze=("^vision\\.",), store=Store())
    return replace(run, groups=(Group(learning_rate=2e-3, weight_decay=1e-4),))


@recipe(family="siglip", scale="nano", needs="packs: chiasm data pull stamps, clipart and openmoji")
def siglip_nano() -> Run:
    """A SigLIP with towers of 22 million parameters on some ten thousand real pictures."""
    model = SmallSiglip(image_size=224, hidden_dim=384, num_layers=12, context_length=64)
    packs = (Source(name="stamps", weight=4.0), Source(name="openmoji"), Source(name="clipart", weight=0.7))
    return replace(siglip_pico(), model=model, data=packs, steps=5000, batch_size=256, checkpoint_every=250)


def _paper(preset: str) -> Run:
    from chiasm.objectives.pairs import PairwiseSigmoid

    return Run(
        model=Preset(name=preset),
        data=(Source(name="pairs"),),
        collate=Pairs(),
        objective=PairwiseSigmoid(),
        steps=40_000_000_000 // 32768,  # 40 billion pairs seen, as the published models
        batch_size=32768,
        checkpoint_every=1000,
        optimizer=AdamW(betas=(0.9, 0.95)),
        schedule=Cosine(warmup=0.02),
        groups=(Group(learning_rate=1e-3, weight_decay=1e-4),),
        bf16=True,
        recompute=True,
    )


PAPER = "web pairs at data; model.processing names a folder with SigLIP's tokenizer"


@recipe(family="siglip", scale="paper", needs=PAPER)
def siglip_b_16_224_paper() -> Run:
    """SigLIP B/16 at 224 pixels."""
    return _paper("siglip_b_16_224")


@recipe(family="siglip", scale="paper", needs=PAPER)
def siglip_so400m_14_384_paper() -> Run:
    """SigLIP So400m/14 at 384 pixels."""
    return _paper("siglip_so400m_14_384")
