"""Pico recipes of bridged families whose training has stages, or that need parts of their own.

BLIP-2's two stages (Li et al. 2023, §3.2 and §3.3), InstructBLIP and MiniGPT-4 on what these leave, Frozen with a tower
from scratch, IDEFICS. The frozen tower is `clip_pico`'s, the frozen language model the pico one, as in `bridges`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chiasm.data.collation import Pairs
from chiasm.recipes.bridges import TOWER, Bridged, Eye, Gated, pico, with_words
from chiasm.recipes.run import Run, Source, Store, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model

CAPTIONS = "scenes:train:captions?size=96&nouns=24"
NEEDS = "generated scenes"
CONTEXT = 128  # tokens of the Q-Former's text side


@dataclass(frozen=True, kw_only=True, slots=True)
class Querying(Bridged):
    """`Bridged`'s Q-Former before there is a language model: it reads and writes with a text side of its own."""

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.blip2_retrieval import Blip2RetrievalConfig
        from chiasm.recipes.running.building import assemble
        from chiasm.vision.patches import FinalStates

        eye = self.eye()
        tokenizer, connector = _reader(self, eye, None)
        config = Blip2RetrievalConfig(
            vision=eye.config,
            connector=connector,
            embed_dim=self.hidden_dim,
            start_id=len(tokenizer),
            captions=True,
            reading=FinalStates(keep_class_token=False),
        )
        return assemble(family, config, eye.parts(tokenizer), seed=seed, frozen=eye.frozen)


@dataclass(frozen=True, kw_only=True, slots=True)
class Instructed(Bridged):
    """`Bridged` whose Q-Former also reads the question."""

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.instructblip import InstructBlipConfig
        from chiasm.recipes.running.building import assemble, speaking
        from chiasm.vision.patches import FinalStates

        language, tokenizer, template = speaking(self.language)
        eye = self.eye()
        _, connector = _reader(self, eye, language.config.hidden_dim)
        config = InstructBlipConfig(
            vision=eye.config,
            connector=connector,
            language=language.config,
            image_token_id=tokenizer.token_to_id("<image>") or 0,
            reading=FinalStates(keep_class_token=False),
        )
        frozen = {"language": language, **eye.frozen}
        return assemble(family, config, eye.parts(tokenizer, template), seed=seed, frozen=frozen)


def _reader(model: Bridged, eye: Eye, output: int | None) -> tuple[Any, Any]:
    """A small tokenizer of BERT's kind, and `model`'s Q-Former with a text side for it."""
    from chiasm.connectors.qformer import QFormerConfig, QFormerTextConfig
    from chiasm.processing.miniature import tiny_tokenizer

    tokenizer = tiny_tokenizer("bert")
    connector = model.joint(eye, model.hidden_dim, "qformer")
    assert isinstance(connector, QFormerConfig)
    text = QFormerTextConfig(vocab_size=len(tokenizer) + 1, context_length=CONTEXT)
    return tokenizer, replace(connector, output_dim=output, text=text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefixed(Bridged):
    """A small NF-ResNet from scratch whose pooled picture is two tokens of the prompt."""

    connector: str = "prefix"

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.assembly import Parts
        from chiasm.models.frozen import FrozenConfig
        from chiasm.recipes.bridges import connector_by_name
        from chiasm.recipes.running.building import assemble, speaking
        from chiasm.vision.nfnet import NFNetConfig

        language, tokenizer, template = speaking(self.language)
        width = self.hidden_dim
        vision = NFNetConfig(
            image_size=self.image_size, depths=(1, 1, 1, 1), channels=(width // 2, width // 2, width, width),
            stem_dim=width // 4, deep_stem=False, bottleneck=0.25,
        )  # fmt: skip
        config = FrozenConfig(
            vision=vision,
            connector=connector_by_name(self.connector, width, language.config.hidden_dim, self.tokens),
            language=language.config,
            image_token_id=tokenizer.token_to_id("<image>") or 0,
        )
        parts = Parts(tokenizer, template=template)
        return assemble(family, config, parts, seed=seed, frozen={"language": language})


@dataclass(frozen=True, kw_only=True, slots=True)
class Idefics(Gated):
    """`Gated` as IDEFICS has it: other gated layers, and a word more, which stands around every picture."""

    def gated(self, eye: Eye, language: Any, tokenizer: Any) -> tuple[Any, Any]:
        from chiasm.models.idefics import FAKE, IdeficsConfig

        tokenizer.add_control(FAKE)
        language = with_words(language, len(tokenizer))
        shared = self.shared(eye, language.config, tokenizer)
        gates = replace(
            shared.pop("gates"), first=0, act="silu", norm_eps=1e-6, rms_norm=True, gated_mlp=True, qk_norm=True
        )
        connector = replace(shared.pop("connector"), act="relu", qk_norm=True)
        # the end of a turn isn't the end of a text: the reply still sees the question's picture
        end = tokenizer.token_to_id("<|endoftext|>")
        return language, IdeficsConfig(**shared, connector=connector, gates=gates, added_words=1, end_id=end)


@recipe(family="blip2_retrieval", scale="pico", needs=NEEDS)
def blip2_pico_stage1() -> Run:
    """The Q-Former learns to speak of pictures: contrast, matching and captions over `clip_pico`'s frozen tower."""
    from chiasm.objectives.querying import QueryingLosses

    return Run(
        model=Querying(),
        after="clip_pico",
        inherit=TOWER,
        freeze=("^vision\\.",),
        data=(Source(name=CAPTIONS),),
        collate=Pairs(truncate=False),
        objective=QueryingLosses(),
        store=Store(),
        steps=400,
        batch_size=32,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=0.05),
        groups=(Group(learning_rate=5e-4, weight_decay=0.05),),
    )


@recipe(family="blip2", scale="pico", needs=NEEDS)
def blip2_pico_stage2() -> Run:
    """The same Q-Former speaks to the frozen pico language model."""
    return replace(pico(Bridged(connector="qformer")), after="blip2_pico_stage1", inherit=("",))


@recipe(family="instructblip", scale="pico", needs=NEEDS)
def instructblip_pico() -> Run:
    """The first stage's Q-Former with its text side, which now reads the question."""
    return replace(pico(Instructed()), after="blip2_pico_stage1", inherit=("",))


@recipe(family="minigpt4", scale="pico", needs=NEEDS)
def minigpt4_pico_align() -> Run:
    """BLIP-2's frozen Q-Former; its projection alone learns, on captions."""
    run = replace(blip2_pico_stage2(), after="blip2_pico_stage2", learn=("^connector\\.proj\\.",))
    return replace(run, data=(Source(name=CAPTIONS),), steps=200)


@recipe(family="minigpt4", scale="pico", needs=NEEDS)
def minigpt4_pico_finetune() -> Run:
    """The projection goes on, on conversations."""
    run = replace(minigpt4_pico_align(), after="minigpt4_pico_align", data=pico(Bridged()).data, steps=100)
    return replace(run, groups=(Group(learning_rate=3e-4),))


@recipe(family="frozen", scale="pico", needs=NEEDS)
def frozen_pico() -> Run:
    """A small NF-ResNet from scratch, its gradient through the frozen pico language model."""
    run = pico(Prefixed(), ("^vision\\.", "^connector\\."))
    return replace(run, after=None, inherit=("",), store=None)


@recipe(family="idefics", scale="pico", needs=NEEDS)
def idefics_pico() -> Run:
    """Gated layers with RMSNorm and gated MLPs, pictures between two words of their own."""
    return pico(Idefics(), ("^connector\\.", "^gates\\."))
