"""Fine-tuning the bundled nano on one's own labelled pictures: a folder with a `.txt` beside each picture is enough.

The tower is frozen, so what it says of every picture is computed once; the connector and low-rank updates of the
language model learn. A picture without a question is asked `collate.question`; ask the same afterwards.
"""

from __future__ import annotations

from chiasm.data.collation import Answers
from chiasm.recipes.run import Lora, Pretrained, Run, Source, Store, recipe
from chiasm.training.config import AdamW, Cosine, Group

MINE = "pictures with answers: --set data=FOLDER (any format chiasm data check reads); about 200 are enough"


@recipe(family="nano", scale="nano", needs=MINE)
def nano_finetune() -> Run:
    """Nano on your own pictures, minutes on two cores: --set data=FOLDER."""
    from chiasm.objectives.captioning import NextToken

    return Run(
        model=Pretrained(source="nano"),
        learn=("^connector\\.",),
        lora=Lora(pattern=r"language\.blocks\.\d+\.(attn|mlp)\.\w+_proj", rank=8, alpha=16.0),
        data=(Source(name="my_pictures"),),
        collate=Answers(),
        objective=NextToken(),
        store=Store(),
        steps=60,
        batch_size=16,
        checkpoint_every=20,
        optimizer=AdamW(betas=(0.9, 0.98)),
        schedule=Cosine(warmup=0.1),
        groups=(Group(pattern="lora_", learning_rate=6e-4), Group(learning_rate=2e-4)),
    )
