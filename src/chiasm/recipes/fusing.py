"""Pico recipes of the matching and fusing families: BLIP, ViLT, ALBEF, CoCa, ALIGN, VSE++, on captioned scenes.

All read the same captions with the same small tokenizer, so that their tables compare architectures. Here everything
learns from scratch; what sees within minutes stands on a frozen network's cells (`recipes.fusing_cells`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chiasm.data.collation import Pairs
from chiasm.recipes.run import ModelConfig, Run, Source, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model
    from chiasm.objectives.fusion import AlignAndFuse, MaskedText, WrittenText
    from chiasm.processing.tokenizer import Tokenizer
    from chiasm.vision.cells import CellTower, CellTowerConfig
    from chiasm.vision.hybrid import HybridConfig
    from chiasm.vision.vit import ViTConfig

NEEDS = "generated scenes"
PACKS = ("stamps", "openmoji", "clipart")
SIZE, PATCH, WIDTH, LAYERS, CONTEXT = 96, 16, 128, 4, 128
FLOOR = 0.002  # beside the hardest wrong pairs, a little for easy ones; with 0.05 the head was too weak to re-rank
HIDDEN = 0.4  # share of words: captions of eight words have little to hide at 0.15
MOMENTUM = 0.97  # the copy lags by some 30 steps of a few hundred; 0.995 belongs to runs of a hundred thousand
# Its queue counts from half of the steps on: from scratch, a model lowers that loss by drifting away from what a queue
# remembers, and learns no pair (docs/results.md).
QUEUE, QUEUE_FROM = 1024, 500


@dataclass(frozen=True, kw_only=True, slots=True)
class PicoFusion(ModelConfig):
    """A small picture tower and a small text tower, as the family joins them.

    Attributes:
        tower: ``efficientnet_lite0``: its cells, frozen, under the picture tower; None = pixels, from scratch.
        depth: blocks of the picture tower over cells.
        width: of both towers, a multiple of 32.
        words: ``scenes`` or ``packs``, whose captions the tokenizer learns from.
    """

    tower: str | None = None
    depth: int = 1
    width: int = WIDTH
    words: str = "scenes"

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.assembly import Parts
        from chiasm.recipes.running.building import assemble

        tokenizer = pico_tokenizer(family, self.words)
        trunk = self._trunk()
        own: Any = {"blip": _blip, "albef": _albef, "vilt": _vilt, "coca": _coca, "align": _align, "vse": _vse}[family]
        hybrid = None if trunk is None else over_cells(trunk.config, self.width, self.depth)
        config = self._headed(family, own(len(tokenizer), hybrid, self.width))
        part = {"vilt": "stream.vision.trunk", "align": "vision", "vse": "vision"}.get(family, "vision.trunk")
        return assemble(family, config, Parts(tokenizer), seed=seed, frozen={} if trunk is None else {part: trunk})

    def _headed(self, family: str, config: Any) -> Any:
        return config

    def _trunk(self) -> CellTower | None:
        from chiasm.weights.frozen import cell_tower

        return None if self.tower is None else cell_tower(self.tower)


def over_cells(trunk: CellTowerConfig, width: int, depth: int) -> HybridConfig:
    """A ViT of `depth` blocks over a frozen network's cells."""
    from chiasm.vision.hybrid import HybridConfig

    return HybridConfig(trunk=trunk, hidden_dim=width, num_layers=depth, num_heads=width // 32, mlp_dim=4 * width)


def pico_tokenizer(family: str, words: str = "scenes") -> Tokenizer:
    """The words of captions of scenes and of what entailment and pairs ask, or of the packs' captions."""
    from chiasm.processing.miniature import tiny_tokenizer
    from chiasm.recipes.running.building import spoken

    kind: Any = "clip" if family == "coca" else "bert"
    asked = [*spoken(), *spoken(200, ("entailment", "pairs"))]
    tokenizer = tiny_tokenizer(kind, merges=600, corpus=asked if words == "scenes" else told())
    if family == "blip":
        tokenizer.add_control("[DEC]", "[ENC]")
    return tokenizer


def told() -> list[str]:
    """Lower-case captions of every fourth of the packs' training pictures."""
    from chiasm.data.packs import load_pack

    pictures = (picture for pack in PACKS for picture in load_pack(pack) if picture.split == "train")
    return [picture.caption.lower() for picture in pictures][::4]


def _blip(vocab: int, hybrid: HybridConfig | None, width: int) -> object:
    from chiasm.models.blip import BlipConfig, text, tower

    language = replace(text(vocab, width, LAYERS, width, twin=True), num_heads=width // 32, context_length=CONTEXT)
    vision: ViTConfig | HybridConfig = hybrid or replace(tower(SIZE, width, LAYERS, width // 32, PATCH), norm_eps=1e-6)
    return BlipConfig(
        vision=vision, language=language, encoder=True, decoder=True, embed_dim=128, start_id=vocab - 2,
        match_id=vocab - 1,
    )  # fmt: skip


def _albef(vocab: int, hybrid: HybridConfig | None, width: int) -> object:
    from chiasm.models.albef import AlbefConfig, Pretraining, text, tower

    language = replace(text(vocab, width, LAYERS, LAYERS // 2, width), num_heads=width // 32, context_length=CONTEXT)
    vision = hybrid or tower(SIZE, width, LAYERS, width // 32, PATCH)
    return AlbefConfig(vision=vision, language=language, head=Pretraining(embed_dim=128))


def _vilt(vocab: int, hybrid: HybridConfig | None, width: int) -> object:
    from chiasm.fusion.single_stream import SingleStreamConfig
    from chiasm.models.vilt import Pretraining, ViltConfig

    stream = SingleStreamConfig(
        vocab_size=vocab, context_length=CONTEXT, image_size=SIZE, patch_size=PATCH, hidden_dim=width,
        num_layers=LAYERS, num_heads=width // 32, mlp_dim=4 * width, num_modalities=3,
    )  # fmt: skip
    if hybrid is not None:
        size, patch = hybrid.image_size, hybrid.patch_size
        stream = replace(stream, image_size=size, patch_size=patch, trunk=hybrid.trunk)
    return ViltConfig(stream=stream, head=Pretraining())


def _coca(vocab: int, hybrid: HybridConfig | None, width: int) -> object:
    from chiasm.language.two_halves import CaptionerConfig
    from chiasm.models.coca import CocaConfig, tower

    half = LAYERS // 2
    language = CaptionerConfig(
        vocab_size=vocab, context_length=CONTEXT, hidden_dim=width, num_heads=width // 32, mlp_dim=4 * width,
        text_layers=half, fusion_layers=half, pad_id=vocab - 1,
    )  # fmt: skip
    vision = hybrid or tower(SIZE, PATCH, width, LAYERS, width // 32)
    return CocaConfig(vision=vision, language=language, embed_dim=width, num_queries=33, pool_heads=4)


def _align(vocab: int, hybrid: HybridConfig | None, width: int) -> object:
    from chiasm.language.bert import BertConfig
    from chiasm.models.align import AlignConfig
    from chiasm.vision.efficientnet import efficientnet

    language = BertConfig(
        vocab_size=vocab, context_length=CONTEXT, hidden_dim=width, num_layers=LAYERS, num_heads=width // 32,
        mlp_dim=4 * width, pooler=True,
    )  # fmt: skip
    own = efficientnet(SIZE, 0.5, 0.4, 640, head=False, fixed_padding=True)
    vision = own if hybrid is None else hybrid.trunk
    return AlignConfig(vision=vision, language=language, init_temperature=0.07)


def _vse(vocab: int, hybrid: HybridConfig | None, width: int) -> object:
    from chiasm.language.recurrent import RecurrentConfig
    from chiasm.models.vse import VseConfig
    from chiasm.vision.cnn import ResNetConfig

    language = RecurrentConfig(vocab_size=vocab, context_length=CONTEXT, embed_dim=width, hidden_dim=width)
    own = ResNetConfig(image_size=SIZE, layers=(1, 1, 1, 1), width=16)
    return VseConfig(vision=own if hybrid is None else hybrid.trunk, language=language)


def _masked() -> MaskedText:
    from chiasm.objectives.fusion import MaskedText
    from chiasm.processing.miniature import tiny_tokenizer

    tokenizer = tiny_tokenizer("bert")
    mask = tokenizer.token_to_id("[MASK]")
    assert mask is not None
    return MaskedText(mask_id=mask, control_ids=tuple(sorted(tokenizer.control_ids)), share=HIDDEN)


def _aligned(text: MaskedText | WrittenText) -> AlignAndFuse:
    from chiasm.objectives.fusion import AlignAndFuse

    return AlignAndFuse(
        text=text, queue_size=QUEUE, queue_from=QUEUE_FROM, momentum=MOMENTUM, ramp_steps=200, floor=FLOOR
    )


def _pico() -> Run:
    """What all of them share."""
    return Run(
        model=PicoFusion(),
        data=(Source(name="scenes:train:captions?size=96&nouns=24"),),
        collate=Pairs(truncate=False),
        steps=1000,
        batch_size=32,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=0.1),
        groups=(Group(learning_rate=5e-4, weight_decay=0.02),),
    )


@recipe(family="blip", scale="pico", needs=NEEDS)
def blip_pico() -> Run:
    """Contrast with a momentum copy, matching and captions over one tied text tower."""
    from chiasm.objectives.fusion import WrittenText

    return replace(_pico(), objective=_aligned(WrittenText()))


@recipe(family="albef", scale="pico", needs=NEEDS)
def albef_pico() -> Run:
    """Contrast with a momentum copy and a queue, matching and masked words."""
    return replace(_pico(), objective=_aligned(_masked()))


@recipe(family="vilt", scale="pico", needs=NEEDS)
def vilt_pico() -> Run:
    """Matching, masked words and words laid on patches, in one stream."""
    from chiasm.objectives.single_stream import MatchAndMask

    return replace(_pico(), objective=MatchAndMask(text=_masked()))


@recipe(family="coca", scale="pico", needs=NEEDS)
def coca_pico() -> Run:
    """Contrast and captions from one pass."""
    from chiasm.objectives.fusion import ContrastAndCaption

    return replace(_pico(), objective=ContrastAndCaption())


@recipe(family="align", scale="pico", needs=NEEDS)
def align_pico() -> Run:
    """InfoNCE with smoothed labels between a small EfficientNet and a small BERT."""
    from chiasm.objectives.pairs import InfoNCE

    return replace(_pico(), objective=InfoNCE(smoothing=0.1), batch_size=64, freeze=("^language\\.pooler\\.",))


@recipe(family="vse", scale="pico", needs=NEEDS)
def vse_pico() -> Run:
    """A hinge on the hardest wrong pair, between a small ResNet and a GRU."""
    from chiasm.objectives.hinge import Hinge

    return replace(_pico(), objective=Hinge(), batch_size=64)
