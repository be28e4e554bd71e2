"""Recipes of InternVL-C and InternVL-G: contrast first, then queries beside frozen towers (Chen et al. 2023, §3.3).

Paper scale (table 18 of the appendix for the second stage; §3.3 for the first): the published sizes and numbers of
samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiasm.data.collation import Pairs
from chiasm.recipes.run import ModelConfig, Preset, Run, Source, Store, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model

CAPTIONS = "scenes:train:captions?size=96&nouns=24"
# what the second stage learns: queries, their looks at the picture, and the heads; the rest stays as contrast left it
SECOND = ("\\.queries$", "\\.cross_", "\\.context_norm\\.", "^query_pool\\.", "^match_head\\.", "^logit_scale$")


@dataclass(frozen=True, kw_only=True, slots=True)
class PicoInternVL(ModelConfig):
    """A small InternViT and a small LLaMA from scratch.

    Attributes:
        num_queries: of InternVL-G.
    """

    num_queries: int = 8

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.assembly import Parts, llama
        from chiasm.models.internvl_g import InternVLCConfig, InternVLGConfig, tower, with_queries
        from chiasm.processing.miniature import tiny_tokenizer
        from chiasm.recipes.running.building import assemble

        tokenizer = tiny_tokenizer("llama")
        vision = tower(96, 12, 128, 4, 4, 512)
        language = llama(
            len(tokenizer), 128, 4, 4, 4, 384, context=256, eps=1e-6, tie_embeddings=family == "internvl_c"
        )
        kind = InternVLCConfig if family == "internvl_c" else InternVLGConfig
        if family == "internvl_g":
            language = with_queries(language, vision.hidden_dim, self.num_queries)
        config = kind(vision=vision, language=language, embed_dim=128, pool_heads=4)  # type: ignore[arg-type]
        return assemble(family, config, Parts(tokenizer), seed=seed)


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
