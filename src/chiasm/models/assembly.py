"""What several families' wiring shares: tower shorthands, and the processor put together from a folder's parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.nn.positions import RotaryConfig
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.processor import Processor
from chiasm.processing.tilers import PadSquare
from chiasm.processing.tokenizer import Tokenizer
from chiasm.vision.vit import ViTConfig


@dataclass(frozen=True, slots=True)
class Parts:
    """What a checkpoint's folder says about processing; a miniature has only a tokenizer and a template.

    Attributes:
        tokenizer: ids of texts and control tokens.
        pictures: the picture settings, as `preprocessor_config.json` or the newer nested form gives them.
        template: the chat template; None = the prompt is the concatenated text.
        settings: the rest of `processor_config.json`.
        folder: where it all stands, for families with more than one tokenizer; None = nowhere.
    """

    tokenizer: Tokenizer
    pictures: Mapping[str, Any] | None = None
    template: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def token(self, token_id: int) -> str:
        """The token of a number that the configuration names.

        Raises:
            ConfigError: the tokenizer has none of that number.
        """
        token = self.tokenizer.id_to_token(token_id)
        if token is None:
            what = f"config.json names token {token_id}, the tokenizer has {len(self.tokenizer)}"
            raise ConfigError("image_token_unknown", what)
        return token

    def conversational(self, pictures: ImageProcessor, image_token_id: int, context_length: int | None) -> Processor:
        """The processor of a model that takes conversations."""
        token = self.tokenizer.id_to_token(image_token_id)
        return Processor(self.tokenizer, pictures, template=self.template, image_token=token, max_length=context_length)


def picture_processor(parts: Parts, kind: str, image_size: int, **shape: Any) -> ImageProcessor:
    """The picture processor a folder describes, or the family's own at the tower's size where it says nothing.

    Args:
        parts: the folder's parts.
        kind: the published class name whose defaults apply.
        image_size: pixels of the tower's side.
        shape: what the count of visual tokens follows from (patch size, extra tokens, canvases).
    """
    settings = parts.pictures or {"image_processor_type": kind, **_own_size(kind, image_size, shape)}
    return ImageProcessor.from_config({"image_processor_type": kind, **settings}, **shape)


def _own_size(kind: str, image_size: int, shape: Mapping[str, Any]) -> dict[str, Any]:
    square = {"height": image_size, "width": image_size}
    if kind in ("SiglipImageProcessor", "BlipImageProcessor"):
        return {"size": square}
    settings: dict[str, Any] = {"size": {"shortest_edge": image_size}, "crop_size": square}
    if "pinpoints" in shape:
        settings["image_grid_pinpoints"] = [list(point) for point in shape["pinpoints"]]
    return settings


def lite_pictures(side: int) -> ImageProcessor:
    """The whole picture on a white square, levels as EfficientNet-Lite's weights want them."""
    tiler = PadSquare(side=side, fill=(255, 255, 255))
    return ImageProcessor(tiler=tiler, rescale_factor=1.0, mean=(127.0,) * 3, std=(128.0,) * 3)


def tower_pictures(parts: Parts, kind: str, vision: Any, **shape: Any) -> ImageProcessor:
    """A ViT's pictures as `picture_processor` has them, else those of the EfficientNet-Lite under the tower."""
    if isinstance(vision, ViTConfig):
        return picture_processor(parts, kind, vision.image_size, **shape)
    return lite_pictures(vision.image_size)


def vit(
    image: int,
    patch: int,
    width: int,
    layers: int,
    heads: int,
    mlp: int,
    *,
    act: str = "gelu",
    norm_eps: float = 1e-6,
    class_token: bool = True,
    norm_pre: bool = False,
    patch_bias: bool = True,
    attention_pool: bool = False,
    **more: Any,
) -> ViTConfig:
    """A ViT by its numbers: pixels, pixels, D, L, H, M."""
    return ViTConfig(
        image_size=image,
        patch_size=patch,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        mlp_dim=mlp,
        act=act,
        norm_eps=norm_eps,
        class_token=class_token,
        norm_pre=norm_pre,
        patch_bias=patch_bias,
        attention_pool=attention_pool,
        **more,
    )


def clip_tower(
    image: int, patch: int = 14, width: int = 1024, layers: int = 24, heads: int = 16, mlp: int | None = None
) -> ViTConfig:
    """CLIP's ViT (ViT-L/14 by default): class token, a norm before the blocks, patches without a bias."""
    return vit(
        image, patch, width, layers, heads, mlp or 4 * width, act="quick_gelu", norm_eps=1e-5, norm_pre=True,
        patch_bias=False,
    )  # fmt: skip


def eva_tower(
    image: int, patch: int = 14, width: int = 1408, layers: int = 39, heads: int = 16, mlp: int = 6144
) -> ViTConfig:
    """EVA-CLIP's ViT as BLIP-2 takes it (ViT-g/14 without its last layer by default)."""
    return vit(image, patch, width, layers, heads, mlp)


def llama(
    vocab: int,
    width: int,
    layers: int,
    heads: int,
    kv: int,
    mlp: int,
    *,
    context: int,
    theta: float = 1e4,
    eps: float = 1e-5,
    rotary: RotaryConfig | None = None,
    **more: Any,
) -> DecoderConfig:
    """A LLaMA-family decoder by its numbers (V, D, L, H, K, M)."""
    return DecoderConfig(
        vocab_size=vocab,
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv,
        mlp_dim=mlp,
        context_length=context,
        norm_eps=eps,
        rotary=rotary or RotaryConfig(theta=theta),
        **more,
    )
