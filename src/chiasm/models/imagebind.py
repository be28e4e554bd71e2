"""ImageBind (Girdhar et al. 2023, "ImageBind: One Embedding Space To Bind Them All").

Six towers in one space: pictures, texts, sounds, depth, heat and motion, each contrasted with pictures alone (§3.2),
so that sounds and texts, say, meet without ever having been seen together. A checkpoint may hold some of them; pictures
and texts are always there. Each kind but pictures scales its vectors: learned for texts, fixed for the others.

Departures: no dropout and no stochastic depth; vectors of a sound's clips are averaged before the scale is applied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.errors import CapabilityError
from chiasm.core.registry import Family, register
from chiasm.language.text import EndOfTextPool, TextEncoder, TextEncoderConfig
from chiasm.models.assembly import Parts, picture_processor
from chiasm.processing.audio import spectrograms
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import DualProcessor
from chiasm.vision.modal import ModalConfig, ModalTower, MotionStem, PictureStem, PlaneStem

SCALES = {"audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBindConfig:
    """An ImageBind.

    Attributes:
        vision, language: the towers that are always there.
        embed_dim: E.
        audio, depth, thermal, imu: further towers; None = the checkpoint lacks that kind.
    """

    vision: ModalConfig
    language: TextEncoderConfig
    embed_dim: int
    audio: ModalConfig | None = None
    depth: ModalConfig | None = None
    thermal: ModalConfig | None = None
    imu: ModalConfig | None = None

    @property
    def kinds(self) -> dict[str, ModalConfig]:
        """The further towers that are there, by name."""
        towers = {"audio": self.audio, "depth": self.depth, "thermal": self.thermal, "imu": self.imu}
        return {name: tower for name, tower in towers.items() if tower is not None}

    def build(self) -> ImageBind:
        return ImageBind(self)


class ImageBind(nn.Module):
    """Everything in one space."""

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        self.config = config
        self.vision: ModalTower = config.vision.build()
        self.language: TextEncoder = config.language.build()
        self.vision_proj = nn.Linear(config.vision.hidden_dim, config.embed_dim, bias=False)
        self.text_proj = nn.Linear(config.language.hidden_dim, config.embed_dim, bias=False)
        self.towers = nn.ModuleDict({name: tower.build() for name, tower in config.kinds.items()})
        self.projections = nn.ModuleDict(
            {name: nn.Linear(tower.hidden_dim, config.embed_dim, bias=False) for name, tower in config.kinds.items()}
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def init_weights(self) -> None:
        """Set the texts' scale to its first value."""
        nn.init.constant_(self.logit_scale, math.log(1 / 0.07))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of input beside pictures and texts."""
        return tuple(self.config.kinds)

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w), or two frames (I, 3, 2, h, w) → (I, E), L2-normalised."""
        return F.normalize(self.vision_proj(self.vision(pixels)), dim=-1)

    def embed_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) → (B, E), L2-normalised."""
        return F.normalize(self.text_proj(self.language(ids, attend)), dim=-1)

    def embed_kind(self, kind: str, inputs: torch.Tensor) -> torch.Tensor:
        """Embed inputs of a further kind.

        Args:
            kind: one of `kinds`.
            inputs: (N, *input_shape) of the kind's stem, or (N, clips, *input_shape).

        Returns:
            (N, E), L2-normalised for single inputs; a mean of such vectors for clips.

        Raises:
            CapabilityError: ``modality_missing``: the checkpoint lacks that kind.
        """
        if kind not in self.towers:
            has = ", ".join(("images", "texts", *self.kinds))
            raise CapabilityError("modality_missing", f"this checkpoint reads {has}, not {kind}")
        shape = self.config.kinds[kind].stem.input_shape
        flat = inputs.reshape(-1, *shape)
        vectors = F.normalize(self.projections[kind](self.towers[kind](flat)), dim=-1)
        return vectors if inputs.dim() == len(shape) + 1 else vectors.unflatten(0, inputs.shape[:2]).mean(1)

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(I, E) and (B, E) embeddings → (I, B) similarities, scaled; the factor is at most 100."""
        return self.logit_scale.exp().clamp(max=100.0) * images @ texts.T

    def kind_logits(self, kind: str, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """(I, E) pictures and (N, E) of a further kind → (I, N) similarities at that kind's fixed scale."""
        return SCALES[kind] * images @ others.T

    def forward(self, batch: Batch) -> torch.Tensor:
        """(I, B) similarities of a batch's pictures and texts."""
        assert batch.pixel_values is not None and batch.input_ids is not None
        images = self.embed_images(batch.pixel_values)
        return self.logits(images, self.embed_texts(batch.input_ids, batch.attention_mask))


class BindingProcessor(DualProcessor):
    """Texts, pictures and sounds → batches."""

    audio: PlaneStem | None = None

    def sounds(self, sounds: list[object], rate: int | None = None) -> torch.Tensor:
        """(N, clips, 1, bands, frames) spectrograms; see `processing.audio.spectrograms`.

        Raises:
            CapabilityError: the checkpoint lacks a tower for sounds.
            DataError: a sound can't be read.
        """
        if self.audio is None:
            raise CapabilityError("modality_missing", "this checkpoint reads images and texts, not audio")
        return spectrograms(sounds, rate, bands=self.audio.size[0], frames=self.audio.size[1])


def text(width: int, layers: int, heads: int, vocab: int = 49408, context: int = 77) -> TextEncoderConfig:
    """The text tower by its numbers."""
    return TextEncoderConfig(
        vocab_size=vocab,
        context_length=context,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        mlp_dim=4 * width,
        act="gelu",
        norm_eps=1e-6,
        pool=EndOfTextPool(token_id=None),
    )


def _plane(
    width: int, heads: int, size: tuple[int, int] = (224, 224), stride: int = 16, layers: int = 12
) -> ModalConfig:
    return ModalConfig(stem=PlaneStem(size=size, stride=stride), hidden_dim=width, num_layers=layers, num_heads=heads)


PRESETS = {
    "imagebind_huge": ImageBindConfig(
        vision=ModalConfig(stem=PictureStem(), hidden_dim=1280, num_layers=32, num_heads=16),
        language=text(1024, 24, 16),
        embed_dim=1024,
        audio=_plane(768, 12, (128, 204), 10),
        depth=_plane(384, 8),
        thermal=_plane(768, 12),
        imu=ModalConfig(stem=MotionStem(), hidden_dim=512, num_layers=6, num_heads=8),
    )
}


def processor(config: ImageBindConfig, parts: Parts) -> BindingProcessor:
    """Resize the short side, crop the centre; CLIP's texts; spectrograms of sounds."""
    stem = config.vision.stem
    assert isinstance(stem, PictureStem)
    pictures = picture_processor(parts, "CLIPImageProcessor", stem.image_size)
    made = BindingProcessor(parts.tokenizer, pictures, config.language.context_length, settings=parts.settings)
    if config.audio is not None and isinstance(config.audio.stem, PlaneStem):
        made.audio = config.audio.stem
    return made


def tiny() -> tuple[ImageBindConfig, BindingProcessor]:
    """A miniature with every kind of tower."""
    tokenizer = tiny_tokenizer("clip")
    config = ImageBindConfig(
        vision=ModalConfig(stem=PictureStem(image_size=32, patch_size=8), hidden_dim=32, num_layers=2, num_heads=2),
        language=text(32, 2, 2, len(tokenizer)),
        embed_dim=16,
        audio=_plane(32, 2, (128, 204), 10, 1),
        depth=_plane(16, 2, (32, 32), layers=1),
        thermal=_plane(16, 2, (32, 32), layers=1),
        imu=ModalConfig(stem=MotionStem(length=64), hidden_dim=16, num_layers=1, num_heads=2),
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="imagebind",
        summary="pictures, texts, sounds, depth, heat and motion in one space, bound through pictures",
        paper="Girdhar et al. 2023, ImageBind: One Embedding Space To Bind Them All",
        capabilities=("embed", "classify"),
        config_type=ImageBindConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
