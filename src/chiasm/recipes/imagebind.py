"""ImageBind's recipes: pictures and captions of scenes at pico scale; what the paper trains, counted.

The paper (Girdhar et al. 2023, §3.2 and §3.3, appendix B) takes OpenCLIP's ViT-H towers as they are and contrasts
pictures with one further kind at a time, at that kind's fixed scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiasm.recipes.clip import SmallClip, clip_pico
from chiasm.recipes.run import Preset, Run, Source, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallBinding(SmallClip):
    """`SmallClip`'s sizes with ImageBind's towers of pictures and texts; further kinds stay away."""

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.assembly import Parts
        from chiasm.models.imagebind import ImageBindConfig, text
        from chiasm.processing.miniature import tiny_tokenizer
        from chiasm.recipes.running.building import assemble, spoken
        from chiasm.vision.modal import ModalConfig, PictureStem

        tokenizer = tiny_tokenizer("clip", merges=600, corpus=spoken())
        stem = PictureStem(image_size=self.image_size, patch_size=self.patch_size)
        width, words = self.hidden_dim, self.text_dim
        config = ImageBindConfig(
            vision=ModalConfig(stem=stem, hidden_dim=width, num_layers=self.num_layers, num_heads=width // 32),
            language=text(words, self.text_layers, words // 32, len(tokenizer)),
            embed_dim=self.embed_dim,
        )
        return assemble(family, config, Parts(tokenizer), seed=seed)


@recipe(family="imagebind", scale="pico", needs="generated scenes")
def imagebind_pico() -> Run:
    """Pictures and their captions in one space: the two towers that every further kind is bound to."""
    return replace(clip_pico(), model=SmallBinding())


@recipe(
    family="imagebind",
    scale="paper",
    needs="counted only: pairs of a picture and a sound, depth, heat or motion, which no collation makes yet",
)
def imagebind_huge_paper() -> Run:
    """The four further towers and their maps learn; pictures and texts are frozen.

    To be counted with `--dry-run`, not run: rows hold no sounds, depth, heat or motion here, so neither collation nor
    objective is named, and a run is refused with `setting_missing`. Steps, batch and rate are ours.
    """
    return Run(
        model=Preset(name="imagebind_huge"),
        learn=("^towers\\.", "^projections\\."),
        data=(Source(name="pairs"),),
        steps=60_000,
        batch_size=2048,
        checkpoint_every=1000,
        optimizer=AdamW(betas=(0.9, 0.95)),
        schedule=Cosine(warmup=2000),
        groups=(Group(learning_rate=1e-3, weight_decay=0.2),),
        bf16=True,
    )
