"""ImageBind's recipes: pictures with captions, then with sounds, of scenes at pico scale; and the paper's sounds.

The paper (Girdhar et al. 2023, §3.2 and §3.3, appendix B) takes OpenCLIP's ViT-H towers as they are and contrasts
pictures with one further kind at a time, at that kind's fixed scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chiasm.data.collation import PictureSounds
from chiasm.recipes.clip import SmallClip, clip_pico
from chiasm.recipes.fusing_cells import DATA, NEEDS
from chiasm.recipes.run import Preset, Run, Source, Store, recipe
from chiasm.training.config import AdamW, Cosine, Group

if TYPE_CHECKING:
    from chiasm.models.model import Model
    from chiasm.vision.hybrid import HybridConfig

SOUNDS = ("^towers\\.audio\\.", "^projections\\.audio\\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallBinding(SmallClip):
    """`SmallClip`'s sizes with ImageBind's towers of pictures and texts.

    Attributes:
        audio_layers: of a tower for sounds, as wide as the pictures'; 0 = there is none.
        tower: ``efficientnet_lite0``: its cells, frozen, under `num_layers` blocks; None = pixels, from scratch.
    """

    audio_layers: int = 0
    tower: str | None = None

    def build(self, family: str, seed: int) -> Model:
        from chiasm.models.assembly import Parts
        from chiasm.models.imagebind import ImageBindConfig, text
        from chiasm.processing.audio import BANDS, FRAMES
        from chiasm.processing.miniature import tiny_tokenizer
        from chiasm.recipes.fusing import over_cells
        from chiasm.recipes.running.building import assemble, spoken
        from chiasm.vision.modal import ModalConfig, PictureStem, PlaneStem
        from chiasm.weights.frozen import cell_tower

        tokenizer = tiny_tokenizer("clip", merges=600, corpus=spoken())
        width, words = self.hidden_dim, self.text_dim
        seen: ModalConfig | HybridConfig = ModalConfig(
            stem=PictureStem(image_size=self.image_size, patch_size=self.patch_size),
            hidden_dim=width,
            num_layers=self.num_layers,
            num_heads=width // 32,
        )
        cells = None if self.tower is None else cell_tower(self.tower)
        if cells is not None:
            seen = over_cells(cells.config, width, self.num_layers)
        heard = ModalConfig(
            stem=PlaneStem(size=(BANDS, FRAMES)), hidden_dim=width, num_layers=self.audio_layers, num_heads=width // 32
        )
        config = ImageBindConfig(
            vision=seen,
            language=text(words, self.text_layers, words // 32, len(tokenizer)),
            embed_dim=self.embed_dim,
            audio=heard if self.audio_layers else None,
        )
        frozen = {} if cells is None else {"vision.trunk": cells}
        return assemble(family, config, Parts(tokenizer), seed=seed, frozen=frozen)


@recipe(family="imagebind", scale="pico", needs="generated scenes")
def imagebind_pico() -> Run:
    """Pictures and their captions in one space: the two towers that every further kind is bound to."""
    return replace(clip_pico(), model=SmallBinding())


@recipe(family="imagebind", scale="pico", needs="generated scenes")
def imagebind_pico_sounds() -> Run:
    """A tower for sounds, bound to the pictures of `imagebind_pico`, whose two towers stay as they are."""
    return _sounds(imagebind_pico(), "imagebind_pico", "size=96&nouns=24")


@recipe(family="imagebind", scale="pico", needs=NEEDS)
def imagebind_cells() -> Run:
    """The same two towers, that of pictures over a frozen EfficientNet's cells, stored."""
    model = SmallBinding(tower="efficientnet_lite0", num_layers=1)
    store = Store(dtype="float16")
    return replace(
        imagebind_pico(), model=model, data=(Source(name=DATA),), freeze=("\\.network\\.",), store=store, steps=300
    )


@recipe(family="imagebind", scale="pico", needs=NEEDS)
def imagebind_cells_sounds() -> Run:
    """A tower for sounds, bound to the pictures of `imagebind_cells`."""
    return _sounds(imagebind_cells(), "imagebind_cells", "nouns=24&count=2500")


def _sounds(run: Run, after: str, data: str) -> Run:
    from chiasm.objectives.binding import BoundToPictures

    assert isinstance(run.model, SmallBinding)
    return replace(
        run,
        model=replace(run.model, audio_layers=2),
        after=after,
        learn=SOUNDS,
        freeze=(),
        data=(Source(name=f"scenes:train:sounds?{data}"),),
        collate=PictureSounds(),
        objective=BoundToPictures(),
        steps=300,
    )


@recipe(family="imagebind", scale="paper", needs="pictures with sounds at data: rows with a picture and a WAV file")
def imagebind_huge_sounds_paper() -> Run:
    """The sounds' tower and its map learn; pictures and texts are frozen. Steps, batch and rate are ours."""
    from chiasm.objectives.binding import BoundToPictures

    return replace(imagebind_huge_paper(), learn=SOUNDS, collate=PictureSounds(), objective=BoundToPictures())


@recipe(
    family="imagebind",
    scale="paper",
    needs="counted only: pairs of a picture and a sound, depth, heat or motion; the sounds alone can be trained",
)
def imagebind_huge_paper() -> Run:
    """The four further towers and their maps learn; pictures and texts are frozen.

    To be counted with `--dry-run`, not run: rows hold no depth, heat or motion here, so neither collation nor objective
    is named, and a run is refused with `setting_missing`; `imagebind_huge_sounds_paper` trains the sounds. Steps, batch
    and rate are ours.
    """
    return Run(
        model=Preset(name="imagebind_huge"),
        learn=("^towers\\.", "^projections\\."),
        data=(Source(name="pairs"),),
        steps=60_000,
        batch_size=2048,
        checkpoint_every=1000,
        optimizer=AdamW(betas=(0.9, 0.95)),
        schedule=Cosine(warmup=2000),
        groups=(Group(learning_rate=1e-3, weight_decay=0.2),),
        bf16=True,
    )
