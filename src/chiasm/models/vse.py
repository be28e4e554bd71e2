"""VSE (Kiros et al. 2014, "Unifying Visual-Semantic Embeddings") and VSE++ (Faghri et al. 2018).

A CNN's vector, normalised and projected, and the last state of a recurrent network over the words, in one space.
Similarity is the cosine, or for order embeddings (Vendrov et al. 2016, eq. 3) −‖max(0, s − v)‖ between vectors whose
entries are made positive: a caption stands above its picture. Trained by hinge losses (`objectives.hinge`): VSE sums
over all wrong pairs, VSE++ takes the hardest. A checkpoint may also hold VSE's decoder, which writes a caption from a
place in the joint space and a sequence of kinds of words (`language.structured`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.errors import CapabilityError
from chiasm.core.registry import Family, register
from chiasm.language.recurrent import RecurrentConfig, RecurrentEncoder
from chiasm.language.structured import StructuredConfig
from chiasm.models.assembly import Parts, lite_pictures
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import DualProcessor
from chiasm.vision.cells import CellTower, CellTowerConfig, Standardised
from chiasm.vision.cnn import ResNetConfig, VggConfig

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True, kw_only=True, slots=True)
class VseConfig:
    """A VSE; the joint space is as wide as the sentence encoder's state.

    Attributes:
        vision, language: the towers.
        order: similarity by order, not by cosine.
        writer: VSE's structure-conditioned decoder; None = none, as in what was published.
    """

    vision: VggConfig | ResNetConfig | CellTowerConfig
    language: RecurrentConfig
    order: bool = False
    writer: StructuredConfig | None = None

    def build(self) -> Vse:
        return Vse(self)


class Vse(nn.Module):
    """Pictures and sentences in one space."""

    def __init__(self, config: VseConfig) -> None:
        super().__init__()
        self.config = config
        self.vision: nn.Module = config.vision.build()
        self.language: RecurrentEncoder = config.language.build()
        self.standard = Standardised(config.vision) if isinstance(config.vision, CellTowerConfig) else None
        self.vision_proj = nn.Linear(config.vision.output_dim, config.language.hidden_dim)
        self.writer = None if config.writer is None else config.writer.build()

    def init_weights(self) -> None:
        """Xavier's uniform for the projection, as the reference."""
        nn.init.xavier_uniform_(self.vision_proj.weight)
        nn.init.zeros_(self.vision_proj.bias)

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) pixels → (I, D) of the CNN, or (I, P, D) of a frozen network's cells."""
        return self.vision.features(pixels) if isinstance(self.vision, CellTower) else self.vision(pixels)

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """(I, D) of `visual_features`, or (I, P, D) cells whose standardised mean counts → (I, E), L2-normalised."""
        if self.standard is not None:
            return self._place(self.vision_proj(self.standard(features).mean(1)))
        return self._place(self.vision_proj(F.normalize(features, dim=-1)))

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) → (I, E), L2-normalised."""
        return self.embed_features(self.visual_features(pixels))

    def embed_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) → (B, E), L2-normalised."""
        return self._place(self.language(ids, attend))

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(I, E) and (B, E) embeddings → (I, B) similarities."""
        if not self.config.order:
            return images @ texts.T
        squares = (texts[None] - images[:, None]).clamp(min=0).square().sum(-1)
        return -squares.clamp(min=1e-12).sqrt()  # the root has no gradient at 0

    def write(self, places: torch.Tensor, kinds: torch.Tensor, start_id: int) -> torch.Tensor:
        """Captions of places in the joint space, a picture's or a text's; see `StructuredWriter.write`.

        Raises:
            CapabilityError: the checkpoint has no such decoder.
        """
        if self.writer is None:
            raise CapabilityError("capability_missing", "this VSE has no writer: what was published only embeds")
        return self.writer.write(places, kinds, start_id)

    @torch.inference_mode()
    def write_best(self, places: torch.Tensor, structures: torch.Tensor, start_id: int) -> torch.Tensor:
        """Captions whose structure is chosen, too: of one in each structure, the nearest to its place (§3.4).

        Args:
            places: (B, E), L2-normalised.
            structures: (K, T) kinds of words, 0 behind the last.
            start_id: what stands before the first word.

        Returns:
            (B, T) ids; −1 where the chosen structure has no word.

        Raises:
            CapabilityError: the checkpoint has no such decoder.
        """
        written, scores = [], []
        for kinds in structures:
            ids = self.write(places, kinds.expand(len(places), -1), start_id)
            text = torch.cat((ids.new_full((len(ids), 1), start_id), ids.clamp(min=0)), 1)
            attend = F.pad(kinds > 0, (1, 0), value=True).expand(len(places), -1)
            scores.append((self.embed_texts(text, attend) * places).sum(-1))
            written.append(ids)
        best = torch.stack(scores).argmax(0)
        return torch.stack(written)[best, torch.arange(len(places), device=best.device)]

    def forward(self, batch: Batch) -> torch.Tensor:
        """(I, B) similarities of a batch's pictures and texts."""
        assert batch.pixel_values is not None and batch.input_ids is not None
        images = self.embed_images(batch.pixel_values)
        return self.logits(images, self.embed_texts(batch.input_ids, batch.attention_mask))

    def _place(self, x: torch.Tensor) -> torch.Tensor:
        unit = F.normalize(x, dim=-1)
        return unit.abs() if self.config.order else unit


def _text(dim: int, *, lstm: bool = False, vocab: int = 11755) -> RecurrentConfig:
    return RecurrentConfig(vocab_size=vocab, context_length=128, embed_dim=300, hidden_dim=dim, lstm=lstm)


PRESETS = {
    "vse_vgg19_lstm300": VseConfig(vision=VggConfig(), language=_text(300, lstm=True)),
    "vsepp_vgg19": VseConfig(vision=VggConfig(), language=_text(1024)),
    "vsepp_resnet152": VseConfig(vision=ResNetConfig(), language=_text(1024)),
    "vse_order_resnet152": VseConfig(vision=ResNetConfig(), language=_text(1024), order=True),
}


def processor(config: VseConfig, parts: Parts) -> DualProcessor:
    """Resize the short side to 256 (of 224 read), crop the centre, ImageNet's mean and deviation."""
    side = config.vision.image_size
    if isinstance(config.vision, CellTowerConfig):
        return DualProcessor(
            parts.tokenizer, lite_pictures(side), config.language.context_length, settings=parts.settings
        )
    own = {
        "size": {"shortest_edge": side * 256 // 224},
        "crop_size": {"height": side, "width": side},
        "resample": 2,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }
    pictures = ImageProcessor.from_config({"image_processor_type": "CLIPImageProcessor", **(parts.pictures or own)})
    return DualProcessor(parts.tokenizer, pictures, config.language.context_length, settings=parts.settings)


def tiny() -> tuple[VseConfig, DualProcessor]:
    """A miniature: a VGG of two stages and a GRU."""
    tokenizer = tiny_tokenizer("bert")
    config = VseConfig(
        vision=VggConfig(image_size=32, stages=((1, 8), (2, 16)), grid=2, hidden_dim=24),
        language=RecurrentConfig(vocab_size=len(tokenizer), context_length=64, embed_dim=12, hidden_dim=16),
    )
    return config, processor(config, Parts(tokenizer))


FAMILY: Family = register(
    Family(
        name="vse",
        summary="CNN and recurrent network in one space, ranked by a hinge; hardest negatives, order embeddings",
        paper="Kiros et al. 2014, Unifying Visual-Semantic Embeddings; Faghri et al. 2018, VSE++",
        capabilities=("embed", "classify"),
        config_type=VseConfig,
        presets=PRESETS,
        tiny=tiny,
        processor=processor,
    )
)
