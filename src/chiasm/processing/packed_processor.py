"""Pictures and videos of any size as one row of patches: the input of towers at native resolution.

A patch is `3 · frames · patch²` numbers; the `merge`² patches of one visual token stand side by side, tokens in
raster order, groups of frames one after another. A picture fills its group with copies of itself. Frames of a video
are decoded, scaled and cut one at a time, straight into the batch's tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from chiasm.core.errors import ConfigError
from chiasm.core.plan import ImagePlan
from chiasm.processing import image_settings
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.native_tilers import NativePack, SmartResize, film_plan
from chiasm.processing.video import Frames

if TYPE_CHECKING:
    import torch

VIDEO_TOKENS = 115_200  # the published share of a 128K context that one video may fill


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedImageProcessor(ImageProcessor):
    """Reads, scales, normalises and cuts into patches.

    Attributes:
        tiler: decides a picture's size.
        frames: frames of one patch.
        video_tiler: decides the size of a video's frames; None for a family without video.
        video_tokens: most visual tokens of a whole video; its frames become smaller to stay below.
    """

    tiler: SmartResize | NativePack = field(default_factory=SmartResize)
    frames: int = 2
    video_tiler: SmartResize | None = None
    video_tokens: int = VIDEO_TOKENS

    def with_tokens(self, patch: int | None, extra: int = 0) -> ImageProcessor:
        """Counts follow from the patches themselves: nothing to change."""
        return self

    def within(self, tokens: int) -> PackedImageProcessor:
        """The same with at most so many visual tokens a picture, or a video."""
        return replace(self, tiler=self.tiler.within(tokens), video_tokens=min(self.video_tokens, tokens))

    def plan(self, picture: Any) -> ImagePlan:
        """What happens to one picture or video.

        Args:
            picture: anything `read` takes, a bare (width, height), or `Frames`.
        """
        if not isinstance(picture, Frames):
            size = picture if isinstance(picture, tuple) else self.read(picture).size
            return self.tiler.plan(size)
        if self.video_tiler is None:
            raise ConfigError("video_unsupported", f"a video of {len(picture)} frames; this model takes 0 videos")
        tiler, steps = self.video_tiler, -(-len(picture) // self.frames)
        if self.video_tokens < steps:
            raise ConfigError(
                "image_tokens_too_few",
                f"a budget of {self.video_tokens} visual tokens for a video whose {len(picture)} frames need {steps}",
                hint=f"--image-tokens {steps}",
            )
        share = self.video_tokens // steps * tiler.factor**2
        # the published floor: a little over the least, so that rounding down stays above it
        floor = int(tiler.min_pixels * 1.05) if self.video_tokens == VIDEO_TOKENS else tiler.factor**2
        most = max(min(tiler.max_pixels, share), floor)
        strict = None if self.video_tokens == VIDEO_TOKENS else self.video_tokens // steps
        tiler = replace(tiler, min_pixels=min(tiler.min_pixels, most), max_pixels=most, max_tokens=strict)
        return film_plan(tiler, picture.size, picture.seconds, self.frames, picture.fps)

    def pixels(self, pictures: Sequence[Any]) -> tuple[torch.Tensor, list[ImagePlan]]:
        """Every patch of every picture and video, in order.

        Args:
            pictures: pictures, each anything `read` takes, and `Frames`.

        Returns:
            (P, 3 · frames · patch²) float32, and one plan a picture.

        Raises:
            PictureError: a picture that can't be read or has a shape that the family refuses.
        """
        import torch  # here, so that pictures can be read and planned without it

        opened = [item if isinstance(item, Frames) else self._read_nth(item, i) for i, item in enumerate(pictures)]
        plans = [self.plan(item if isinstance(item, Frames) else item.size) for item in opened]
        size, unit = self.tiler.patch, self.tiler.merge**2
        batch = torch.empty((sum(plan.num_tokens * unit for plan in plans), 3 * self.frames * size * size))
        target, table, start = batch.numpy(), self._table(), 0
        for item, plan in zip(opened, plans, strict=True):
            step = plan.tokens[0] * plan.tokens[1] * unit
            stop = start + plan.num_tokens * unit
            rows = target[start:stop].reshape(plan.steps, step, 3, self.frames, size * size)
            self._fill(rows, item, plan, table)
            start = stop
        return batch, plans

    def _fill(self, rows: np.ndarray, item: Any, plan: ImagePlan, table: np.ndarray) -> None:
        count = 0
        for count, picture in enumerate(item if isinstance(item, Frames) else [item], 1):
            (picture,) = self.tiler.render(picture, plan, self.resample)
            patches = self._cut(np.asarray(picture), plan)  # (step, 3, patch²) uint8
            group, slot = divmod(count - 1, self.frames)
            for channel in range(3):
                rows[group, :, channel, slot] = table[channel][patches[:, channel]]
        for index in range(count, plan.steps * self.frames):  # a group that isn't full repeats its last frame
            group, slot = divmod(index, self.frames)
            rows[group, :, :, slot] = rows[group, :, :, slot - 1]

    def _cut(self, levels: np.ndarray, plan: ImagePlan) -> np.ndarray:
        (rows, columns), merge, size = plan.tokens, self.tiler.merge, self.tiler.patch
        blocks = levels.reshape(rows, merge, size, columns, merge, size, 3)
        return blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3, size * size)

    def crops(self, pixels: torch.Tensor, plans: Sequence[ImagePlan]) -> list[list[Image.Image]]:
        """Every picture, and every frame of a video, as the model sees it.

        Args:
            pixels: (P, …) what `pixels` gave.
            plans: its plans.

        Returns:
            For each plan, one picture a crop.
        """
        unit, start, seen = self.tiler.merge**2, 0, []
        for plan in plans:
            stop = start + plan.num_tokens * unit
            frames = self._join(pixels[start:stop], plan)
            seen.append([self.as_seen(frame) for frame in frames[: len(plan.crops)]])
            start = stop
        return seen

    def _join(self, patches: torch.Tensor, plan: ImagePlan) -> torch.Tensor:
        (rows, columns), merge, size = plan.tokens, self.tiler.merge, self.tiler.patch
        blocks = patches.reshape(plan.steps, rows, columns, merge, merge, 3, self.frames, size, size)
        frames = blocks.permute(0, 6, 5, 1, 3, 7, 2, 4, 8)  # (steps, frames, 3, height, width)
        side = merge * size
        return frames.reshape(plan.steps * self.frames, 3, rows * side, columns * side)

    @classmethod
    def from_settings(
        cls, config: Mapping[str, Any], video: Mapping[str, Any] | None = None, **more: Any
    ) -> PackedImageProcessor:
        """The processor that published settings describe.

        Args:
            config: of the pictures: `preprocessor_config.json`, or the part of `processor_config.json`.
            video: of the videos; None for a family without them.
            more: further fields.

        Raises:
            ConfigError: a setting that isn't known.
        """
        arguments = image_settings.read(config)
        if video is not None:
            size = {**{"shortest_edge": 128 * 784, "longest_edge": 768 * 784}, **(video.get("size") or {})}
            low, high = video.get("min_pixels"), video.get("max_pixels")
            tiler = arguments["tiler"]
            arguments["video_tiler"] = replace(
                tiler, min_pixels=low or size["shortest_edge"], max_pixels=high or size["longest_edge"]
            )
        return cls(**arguments, **more)

    def to_video_config(self) -> dict[str, Any]:
        """The videos' settings as transformers 5 reads them."""
        assert self.video_tiler is not None
        own = self.to_config()
        own.pop("image_processor_type")
        size = {"shortest_edge": self.video_tiler.min_pixels, "longest_edge": self.video_tiler.max_pixels}
        return own | {"video_processor_type": "Qwen2VLVideoProcessor", "size": size}
