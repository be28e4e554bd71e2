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

from chiasm.core.errors import CapabilityError
from chiasm.core.registry import Family, register
from chiasm.fusion.dual import DualEncoder
from chiasm.language.text import EndOfTextPool, TextEncoderConfig
from chiasm.models.assembly import Parts, picture_processor
from chiasm.processing.audio import spectrograms
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import DualProcessor
from chiasm.vision.hybrid import Hybrid, HybridConfig
from chiasm.vision.modal import ModalConfig, MotionStem, PictureStem, PlaneStem

SCALES = {"audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBindConfig:
    """An ImageBind.

    Attributes:
        vision, language: the towers that are always there; the first may stand on a frozen network's cells.
        embed_dim: E.
        audio, depth, thermal, imu: further towers; None = the checkpoint lacks that kind.
    """

    vision: ModalConfig | HybridConfig
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


class ImageBind(DualEncoder):
    """Everything in one space."""

    def __init__(self, config: ImageBindConfig) -> None:
        joint = config.embed_dim
        super().__init__(
            config.vision.build(),
            config.language.build(),
            nn.Linear(config.vision.hidden_dim, joint, bias=False),
            nn.Linear(config.language.hidden_dim, joint, bias=False),
            init_scale=math.log(1 / 0.07),
        )
        self.config = config
        self.towers = nn.ModuleDict({name: tower.build() for name, tower in config.kinds.items()})
        self.projections = nn.ModuleDict(
            {name: nn.Linear(tower.hidden_dim, joint, bias=False) for name, tower in config.kinds.items()}
        )

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w), or two frames (I, 3, 2, h, w) → (I, D) vectors, or (I, P, D) cells of a frozen network."""
        return self.vision.trunk.features(pixels) if isinstance(self.vision, Hybrid) else self.vision(pixels)

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """What `visual_features` gives → (I, E), L2-normalised."""
        return super().embed_features(
            self.vision.refine(features)[:, 0] if isinstance(self.vision, Hybrid) else features
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of input beside pictures and texts."""
        return tuple(self.config.kinds)

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
    seen = config.vision if isinstance(config.vision, HybridConfig) else config.vision.stem
    assert not isinstance(seen, PlaneStem | MotionStem)
    pictures = picture_processor(parts, "CLIPImageProcessor", seen.image_size)
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
