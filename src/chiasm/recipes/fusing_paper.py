"""The papers' recipes of the matching and fusing families: VSE, VSE++, ALIGN, ViLT, ALBEF, BLIP, CoCa.

`chiasm train NAME --dry-run` counts what learns. Departures: ALIGN's LAMB and VSE's Adam are AdamW here; CoCa's
labelled pictures are pairs like the others, their labels as texts. `init_from` gives weights to start from.
"""

from __future__ import annotations

from chiasm.data.collation import Pairs
from chiasm.recipes.run import Preset, Run, Source, recipe
from chiasm.training.config import Adafactor, AdamW, Cosine, Group, Linear, StepDecay

COCO = 5 * 113_287  # captions of Karpathy's training split
WEB = 14_100_000  # pairs of COCO, Visual Genome, SBU, CC3M and CC12M (Li et al. 2021, §4)
WORDS = "model.processing names a folder with the tokenizer"
BERT = "model.processing names a folder with BERT's tokenizer; init_from one with a ViT-B/16 and BERT"
CONTROLS = (0, 100, 101, 102, 103)  # [PAD], [UNK], [CLS], [SEP], [MASK] of BERT's uncased vocabulary


def _vse(preset: str, *, hardest: bool) -> Run:
    from chiasm.objectives.hinge import Hinge

    epoch = COCO // 128
    return Run(
        model=Preset(name=preset),
        freeze=(r"^vision\.",),
        data=(Source(name="coco"),),
        collate=Pairs(),
        objective=Hinge(margin=0.2, hardest=hardest),
        steps=30 * epoch,
        batch_size=128,
        checkpoint_every=1000,
        optimizer=AdamW(betas=(0.9, 0.999)),
        schedule=StepDecay(every=15 * epoch, factor=0.1),
        groups=(Group(learning_rate=2e-4),),
        clip=2.0,
    )


@recipe(family="vse", scale="paper", needs=f"COCO's captions; init_from names a folder with VGG-19; {WORDS}")
def vse_vgg19_paper() -> Run:
    """VSE with an LSTM of 300 on frozen VGG-19: every wrong pair counts (Kiros et al. 2014, §2; steps as VSE++)."""
    return _vse("vse_vgg19_lstm300", hardest=False)


@recipe(family="vse", scale="paper", needs=f"COCO's captions; init_from names a folder with ResNet-152; {WORDS}")
def vsepp_resnet152_paper() -> Run:
    """VSE++ with a GRU of 1,024 on frozen ResNet-152: the hardest wrong pair counts (Faghri et al. 2018, §3)."""
    return _vse("vsepp_resnet152", hardest=True)


@recipe(family="align", scale="paper", needs=f"1.8 billion noisy pairs; {WORDS}")
def align_l2_paper() -> Run:
    """EfficientNet-L2 and BERT-large (Jia et al. 2021, §5)."""
    from chiasm.objectives.pairs import InfoNCE

    return Run(
        model=Preset(name="align_l2"),
        freeze=(r"^language\.pooler\.",),
        data=(Source(name="pairs"),),
        collate=Pairs(),
        objective=InfoNCE(smoothing=0.1),
        steps=1_200_000,
        batch_size=16384,
        checkpoint_every=1000,
        schedule=Linear(warmup=10_000),
        groups=(Group(learning_rate=1e-3, weight_decay=1e-5),),
        clip=None,
        bf16=True,
        recompute=True,
    )


@recipe(family="vilt", scale="paper", needs="4.1M pictures with 9.9M captions: COCO, Visual Genome, SBU, GCC; "
        "model.processing names a folder with BERT's tokenizer; init_from one with a ViT-B/32")  # fmt: skip
def vilt_b_32_paper() -> Run:
    """ViLT-B/32: matching, masked whole words, words on patches (Kim et al. 2021, §4.1)."""
    from chiasm.objectives.fusion import MaskedText
    from chiasm.objectives.single_stream import MatchAndMask

    return Run(
        model=Preset(name="vilt_b_32"),
        data=(Source(name="pairs"),),
        collate=Pairs(),
        objective=MatchAndMask(text=MaskedText(mask_id=103, control_ids=CONTROLS)),
        steps=100_000,
        batch_size=4096,
        checkpoint_every=1000,
        schedule=Linear(warmup=0.1),
        groups=(Group(learning_rate=1e-4, weight_decay=0.01),),
        clip=None,
        bf16=True,
    )


@recipe(family="albef", scale="paper", needs=f"14.1M pairs: COCO, Visual Genome, SBU, CC3M, CC12M; {BERT}")
def albef_b_paper() -> Run:
    """ALBEF on 14M pictures: contrast with momentum and a queue, matching, masked words (Li et al. 2021, §3.5)."""
    from chiasm.objectives.fusion import AlignAndFuse, MaskedText

    epoch = WEB // 512
    text = MaskedText(mask_id=103, control_ids=CONTROLS)
    return Run(
        model=Preset(name="albef_b"),
        data=(Source(name="pairs"),),
        collate=Pairs(),
        objective=AlignAndFuse(text=text, queue_size=65536, momentum=0.995, alpha=0.4, ramp_steps=epoch),
        steps=30 * epoch,
        batch_size=512,
        checkpoint_every=1000,
        schedule=Cosine(warmup=1000, final_share=0.1),
        groups=(Group(learning_rate=1e-4, weight_decay=0.02),),
        clip=None,
        bf16=True,
    )


def _blip(preset: str, batch: int, rate: float) -> Run:
    from chiasm.objectives.fusion import AlignAndFuse, WrittenText

    epoch = WEB // batch
    return Run(
        model=Preset(name=preset),
        data=(Source(name="pairs"),),
        collate=Pairs(),
        objective=AlignAndFuse(
            text=WrittenText(), queue_size=57600, momentum=0.995, alpha=0.4, ramp_steps=2 * epoch, floor=1e-4
        ),
        steps=20 * epoch,
        batch_size=batch,
        checkpoint_every=1000,
        schedule=StepDecay(warmup=3000, every=epoch, factor=0.9),
        groups=(Group(learning_rate=rate, weight_decay=0.05),),
        clip=None,
        bf16=True,
    )


@recipe(family="blip", scale="paper", needs=f"14.1M pairs, as chiasm curate leaves them; {BERT}")
def blip_b_paper() -> Run:
    """BLIP with ViT-B/16 (Li et al. 2022, §4.1)."""
    return _blip("blip_b", 2880, 3e-4)


@recipe(family="blip", scale="paper", needs=f"14.1M pairs, as chiasm curate leaves them; {BERT} (here ViT-L/16)")
def blip_l_paper() -> Run:
    """BLIP with ViT-L/16."""
    return _blip("blip_l", 2400, 2e-4)


@recipe(family="coca", scale="paper", needs=f"pictures with labels as texts (JFT-3B) and 1.8 billion pairs; {WORDS}")
def coca_2b_paper() -> Run:
    """CoCa of 2.1 billion parameters: contrast and captions from one pass (Yu et al. 2022, §4.1)."""
    from chiasm.objectives.fusion import ContrastAndCaption

    return Run(
        model=Preset(name="coca_2b"),
        data=(Source(name="labelled"), Source(name="pairs")),
        collate=Pairs(),
        objective=ContrastAndCaption(contrast=1.0, caption=2.0),
        steps=500_000,
        batch_size=65536,
        checkpoint_every=1000,
        optimizer=Adafactor(),
        schedule=Linear(warmup=0.02),
        groups=(Group(learning_rate=8e-4, weight_decay=0.01),),
        clip=1.0,
        bf16=True,
        recompute=True,
    )
