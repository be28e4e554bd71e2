"""`ImageProcessor`: pictures to the float tensor of a vision tower, and back to what the model saw.

A picture is decoded once, scaled once, and normalised by looking each 8-bit level up in a table of 256 floats a
channel, straight into the batch's tensor. The table is computed in the order and precision of transformers'
`rescale` and `normalize`, so the tensors are equal to the bit, not just close.

Settings as published are read and written in `image_settings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from chiasm.core.errors import PictureError
from chiasm.core.plan import ImagePlan
from chiasm.processing import image_settings
from chiasm.processing.budget import within
from chiasm.processing.picture_bytes import Limits
from chiasm.processing.pictures import Colour, read_picture
from chiasm.processing.tilers import BICUBIC, CenterCrop, Tiler
from chiasm.processing.video import FRAME

if TYPE_CHECKING:
    import torch

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageProcessor:
    """Reads, tiles and normalises pictures for one vision tower.

    Attributes:
        tiler: decides the crops.
        resample: Pillow's resampling filter (3 is bicubic, 2 bilinear, 1 Lanczos).
        rescale_factor: multiplies the 8-bit levels first.
        mean: subtracted from each channel, after rescaling.
        std: divides each channel, last.
        background: what transparency is composited onto; None drops the alpha channel.
        limits: what a picture may cost.
    """

    tiler: Tiler = field(default_factory=CenterCrop)
    resample: int = BICUBIC
    rescale_factor: float = 1 / 255
    mean: Channels = CLIP_MEAN
    std: Channels = CLIP_STD
    background: Colour | None = (255, 255, 255)
    limits: Limits = Limits()

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        patch: int | None = None,
        extra: int = 0,
        pinpoints: Sequence[Sequence[int]] | None = None,
    ) -> ImageProcessor:
        """The processor that published settings describe.

        Args:
            config: `preprocessor_config.json`, or `processor_config.json` with the settings nested.
            patch: pixels of one visual token's side; None for a tower that pools.
            extra: visual tokens beside the patches.
            pinpoints: the model's own canvases, (height, width) each, which the settings must agree with.

        Raises:
            ConfigError: a processor type that isn't known, or a setting that would change pixels in a way
                that isn't implemented.
        """
        return cls(**image_settings.read(config, patch=patch, extra=int(extra), pinpoints=pinpoints))

    def to_config(self) -> dict[str, Any]:
        """The settings as transformers 5 reads them: `preprocessor_config.json`, or nested in the newer file.

        Those of open_clip, which drops alpha, are what it says under `preprocess_cfg`.

        Raises:
            ConfigError: a setting that those files can't express.
        """
        return image_settings.write(self)

    def with_tokens(self, patch: int | None, extra: int = 0) -> ImageProcessor:
        """The same pixels, with visual tokens counted for another tower."""
        return replace(self, tiler=replace(self.tiler, patch=patch, extra=int(extra)))  # type: ignore[type-var]

    def read(self, source: Any) -> Image.Image:
        """Read a picture from any source within this processor's limits; see `pictures.read_picture`."""
        return read_picture(source, self.limits, self.background)

    def plan(self, picture: Any) -> ImagePlan:
        """What happens to one picture.

        Args:
            picture: anything `read` takes, or a bare (width, height).
        """
        if isinstance(picture, tuple):
            return self.tiler.plan(picture)
        opened = self.read(picture)
        return self._tiler_of(opened).plan(opened.size)

    def pixels(self, pictures: Sequence[Any]) -> tuple[torch.Tensor, list[ImagePlan]]:
        """Every crop of every picture, in order.

        Args:
            pictures: I pictures, each anything `read` takes.

        Returns:
            (crops, 3, h, w) float32, and one plan a picture.

        Raises:
            PictureError: a picture that can't be read, named by its position; or pictures_ragged when
                settings without a fixed size meet pictures of several sizes.
        """
        import torch  # here, so that pictures can be read and planned without it

        opened = [self._read_nth(picture, i) for i, picture in enumerate(pictures)]
        plans = [self._tiler_of(picture).plan(picture.size) for picture in opened]
        sizes = {crop.size for plan in plans for crop in plan.crops}
        if len(sizes) > 1:
            (w0, h0), (w1, h1) = sorted(sizes)[:2]
            raise PictureError(
                "pictures_ragged",
                f"one batch holds crops of {w0}×{h0} and {w1}×{h1} pixels",
                hint="one picture at a time",
            )
        width, height = sizes.pop() if sizes else (0, 0)
        batch = torch.empty((sum(len(plan.crops) for plan in plans), 3, height, width))
        target, table = batch.numpy(), self._table()
        row = 0
        for picture, plan in zip(opened, plans, strict=True):
            for crop in self.tiler.render(picture, plan, self.resample):
                levels = np.asarray(crop)  # (h, w, 3) uint8
                if levels.dtype != np.uint8:  # scaled in floating point, as some published code does
                    target[row] = self._normalised(levels)
                    row += 1
                    continue
                for channel in range(3):
                    np.take(table[channel], levels[..., channel], out=target[row, channel], mode="clip")
                row += 1
        return batch, plans

    def unnormalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Undo the normalisation.

        Args:
            pixels: (…, 3, h, w) as `pixels` gives them.

        Returns:
            (…, 3, h, w) uint8 levels.
        """
        import torch

        shape = (3, 1, 1)
        mean, std = (torch.tensor(value, dtype=torch.float64).view(shape) for value in (self.mean, self.std))
        levels = (pixels.detach().cpu().double() * std + mean) / self.rescale_factor
        return levels.round().clamp(0, 255).to(torch.uint8)

    def as_seen(self, pixels: torch.Tensor) -> Image.Image:
        """The picture as the model sees it.

        Args:
            pixels: (3, h, w), one crop.

        Returns:
            An RGB picture of w×h.
        """
        return Image.fromarray(np.ascontiguousarray(self.unnormalise(pixels).permute(1, 2, 0).numpy()))

    def within(self, tokens: int) -> ImageProcessor:
        """The same with at most so many visual tokens a picture; see `budget.within`."""
        return replace(self, tiler=within(self.tiler, tokens))

    def _tiler_of(self, picture: Image.Image) -> Tiler:
        frames = getattr(self.tiler, "for_frames", None)
        return frames() if frames is not None and picture.info.get(FRAME) else self.tiler

    def _read_nth(self, picture: Any, index: int) -> Image.Image:
        try:
            return self.read(picture)
        except PictureError as error:
            raise PictureError(error.code, f"picture {index}: {error.what}", hint=error.hint) from None

    def _normalised(self, levels: np.ndarray) -> np.ndarray:
        """(h, w, 3) float levels → (3, h, w)."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        scaled = (levels * np.float32(self.rescale_factor) - mean) / std
        return scaled.transpose(2, 0, 1)

    def _table(self) -> np.ndarray:
        """(3, 256) float32: the value of every level in every channel, rounded where transformers rounds."""
        levels = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)
        mean, std = np.array(self.mean, np.float32)[:, None], np.array(self.std, np.float32)[:, None]
        return (levels - mean) / std
