"""Tilers that choose how many crops a picture gets.

* `DynamicTiles`: InternVL 1.5 and later (Chen et al. 2024, §3.2): the grid of tiles whose shape is closest to the
  picture's, the picture stretched onto it, a thumbnail of the whole last.
* `HDTransform`: InternLM-XComposer2-4KHD (Dong et al. 2024, §3.2): as wide as a number of tiles allows, white above
  and below, the whole picture first.
* `OverlapCrops`: Molmo (Deitke et al. 2024, §2): crops that overlap by a margin, so that every patch is seen with
  its surroundings; the whole picture first.

Where the published code resizes in floating point, crops come as float arrays of levels instead of 8-bit pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

from chiasm.core.plan import Crop, ImagePlan
from chiasm.processing.tilers import BICUBIC, Size, render_crops

WHITE = (255, 255, 255)


@dataclass(frozen=True, kw_only=True, slots=True)
class DynamicTiles:
    """The closest grid of square tiles, and a thumbnail.

    Attributes:
        side: pixels of a tile's side.
        min_tiles, max_tiles: limits of the grid, thumbnail not counted.
        thumbnail: whether the whole picture follows where there are several tiles.
        patch: pixels of one visual token's side.
    """

    side: int = 448
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True
    patch: int = 28

    @property
    def fewest_tokens(self) -> int:
        """Visual tokens of one tile."""
        return (self.side // self.patch) ** 2

    def plan(self, size: Size) -> ImagePlan:
        """Tiles row by row, the thumbnail last; see `Tiler`."""
        columns, rows = closest_grid(size, self.side, self.min_tiles, self.max_tiles)
        side, resized = self.side, (columns * self.side, rows * self.side)
        crops = [
            Crop(resized, (-column * side, -row * side), (side, side))
            for row in range(rows)
            for column in range(columns)
        ]
        if self.thumbnail and len(crops) > 1:
            crops.append(Crop((side, side), (0, 0), (side, side)))
        tokens = side // self.patch
        return ImagePlan(size, tuple(crops), (rows, columns), (tokens, tokens), len(crops) * tokens * tokens)

    def within(self, tokens: int) -> DynamicTiles:
        """The same with at most so many visual tokens a picture."""
        most = tokens // self.fewest_tokens
        tiles = most - 1 if self.thumbnail and most > 1 else most
        most_tiles = max(1, min(self.max_tiles, tiles))
        return replace(self, max_tiles=most_tiles, min_tiles=min(self.min_tiles, most_tiles))

    def for_frames(self) -> DynamicTiles:
        """One tile a frame of a video."""
        return replace(self, min_tiles=1, max_tiles=1)

    def render(self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC) -> list[Image.Image]:
        """The plan's crops; see `Tiler`."""
        return render_crops(picture, plan.crops, resample)


@lru_cache(maxsize=4096)
def closest_grid(size: Size, side: int, fewest: int, most: int) -> Size:
    """(columns, rows) of the grid whose shape is closest to the picture's.

    Args:
        size: (width, height) of the picture.
        side: pixels of a tile's side.
        fewest, most: limits of columns · rows.

    Returns:
        Of grids equally close, the one with more tiles as long as the picture has over half of its pixels.
    """
    ratio, area = size[0] / size[1], size[0] * size[1]
    grids = [(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if fewest <= i * j <= most]
    best, closest = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(ratio - columns / rows)
        if distance < closest or (distance == closest and area > 0.5 * side * side * columns * rows):
            best, closest = (columns, rows), distance
    return best


@dataclass(frozen=True, kw_only=True, slots=True)
class HDTransform:
    """As many tiles as a number allows, the picture's shape kept, white where it ends.

    Attributes:
        side: pixels of a tile's side.
        max_tiles: most tiles, the global view not counted (25 in training, 55 at most).
        patch: pixels of one visual token's side.
    """

    side: int = 336
    max_tiles: int = 55
    patch: int = 28

    @property
    def fewest_tokens(self) -> int:
        """Visual tokens of a picture in one tile, newlines and separator counted."""
        return self.count(1, 1)

    def count(self, rows: int, columns: int) -> int:
        """Visual tokens of a grid and its global view, a newline for each row, one separator."""
        line = self.side // self.patch
        return (rows * columns + 1) * line * line + 1 + (rows + 1) * line

    def plan(self, size: Size) -> ImagePlan:
        """The global view, then tiles row by row; see `Tiler`."""
        portrait = size[0] < size[1]
        wide, tall = (size[1], size[0]) if portrait else size
        ratio, scale = wide / tall, 1
        while scale * math.ceil(scale / ratio) <= self.max_tiles:
            scale += 1
        across = max(1, scale - 1) * self.side
        down = max(1, int(across / ratio))
        canvas = (across, math.ceil(down / self.side) * self.side)
        resized, offset = (across, down), (0, (canvas[1] - down) // 2)
        if portrait:
            resized, offset, canvas = resized[::-1], offset[::-1], canvas[::-1]
        side = self.side
        columns, rows = canvas[0] // side, canvas[1] // side
        whole = Crop((resized[0] / columns, resized[1] / rows), (offset[0] / columns, offset[1] / rows), (side, side))
        tiles = [
            Crop(resized, (offset[0] - column * side, offset[1] - row * side), (side, side))
            for row in range(rows)
            for column in range(columns)
        ]
        line = side // self.patch
        return ImagePlan(size, (whole, *tiles), (rows, columns), (line, line), self.count(rows, columns))

    def within(self, tokens: int) -> HDTransform:
        """The same with at most so many visual tokens a picture, whatever its shape."""
        fitting = [n for n in range(1, self.max_tiles + 1) if self.count(n, 1) <= tokens]  # one column costs most
        return replace(self, max_tiles=max(fitting, default=1))

    def render(self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC) -> list[Image.Image | np.ndarray]:
        """The global view as float levels, then the tiles; see `Tiler`.

        The published code turns a portrait on its side, scales it bilinearly, and interpolates the global view from
        the canvas without smoothing first.
        """
        import torch

        tile, side = plan.crops[1], self.side
        width, height = int(tile.resized[0]), int(tile.resized[1])
        if picture.width < picture.height:
            turned = picture.transpose(Image.Transpose.TRANSPOSE).resize((height, width), Image.Resampling.BILINEAR)
            scaled = turned.transpose(Image.Transpose.TRANSPOSE)
        else:
            scaled = picture.resize((width, height), Image.Resampling.BILINEAR)
        rows, columns = plan.grid
        canvas = Image.new("RGB", (columns * side, rows * side), WHITE)
        canvas.paste(scaled, (int(tile.offset[0]), int(tile.offset[1])))
        levels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1)[None].float()
        small = torch.nn.functional.interpolate(levels, (side, side), mode="bicubic")[0].permute(1, 2, 0)
        tiles = [
            canvas.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
            for row in range(rows)
            for column in range(columns)
        ]
        return [small.numpy(), *tiles]


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlapCrops:
    """Crops that overlap by a margin, and the whole picture first.

    Attributes:
        side: pixels of a crop's side.
        max_crops: most crops, the global view not counted.
        margin: patches at each side of a crop that a neighbour shows as well.
        patch: pixels of a patch's side.
        pool: patches along one side of a visual token.
    """

    side: int = 336
    max_crops: int = 12
    margin: int = 4
    patch: int = 14
    pool: int = 2

    @property
    def window(self) -> int:
        """Pixels that one crop adds to the canvas."""
        return self.side - 2 * self.margin * self.patch

    @property
    def fewest_tokens(self) -> int:
        """Visual tokens of a picture in one crop."""
        return self.count(1, 1)

    def lines(self, rows: int, columns: int) -> Size:
        """(rows, columns) of visual tokens of a grid of crops."""
        unit = self.patch * self.pool
        margins = self.side - self.window
        return -(-(rows * self.window + margins) // unit), -(-(columns * self.window + margins) // unit)

    def count(self, rows: int, columns: int) -> int:
        """Tokens of a grid and its global view: patches, a column token a row, a start and an end for each."""
        base, (tall, wide) = self.side // (self.patch * self.pool), self.lines(rows, columns)
        return base * (base + 1) + 2 + tall * (wide + 1) + 2

    def plan(self, size: Size) -> ImagePlan:
        """The global view, then crops row by row; see `Tiler`."""
        margins, side = self.side - self.window, self.side
        rows, columns = self._grid(size[1] - margins, size[0] - margins)
        canvas = (columns * self.window + margins, rows * self.window + margins)
        resized, offset = _fit_float32(size, canvas)
        small, small_offset = _fit_float32(size, (side, side))
        crops = [
            Crop(resized, (offset[0] - column * self.window, offset[1] - row * self.window), (side, side))
            for row in range(rows)
            for column in range(columns)
        ]
        base = side // (self.patch * self.pool)
        whole = Crop(small, small_offset, (side, side))
        return ImagePlan(size, (whole, *crops), (rows, columns), (base, base), self.count(rows, columns))

    def _grid(self, height: int, width: int) -> Size:
        most = self.max_crops
        grids = [(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if i * j <= most]
        grids.sort(key=lambda grid: (grid[0] * grid[1], grid[0]))  # the smaller of equals wins
        lengths = np.array(grids, np.int32).astype(np.float32) * np.float32(self.window)
        with np.errstate(divide="ignore"):
            scales = (lengths / np.array([height, width], np.float32)).min(-1)
        if (scales < 1).all():
            return grids[int(scales.argmax())]
        return grids[int(np.where(scales < 1, np.float32(10e9), scales).argmin())]

    def within(self, tokens: int) -> OverlapCrops:
        """The same with at most so many tokens a picture, whatever its shape."""
        fitting = [
            n
            for n in range(1, self.max_crops + 1)
            if max(self.count(rows, n // rows) for rows in range(1, n + 1)) <= tokens
        ]
        return replace(self, max_crops=max(fitting, default=1))

    def render(self, picture: Image.Image, plan: ImagePlan, resample: int = BICUBIC) -> list[np.ndarray]:
        """Every crop as float levels: the published code scales in floating point, bilinearly; see `Tiler`."""
        levels = np.asarray(picture)
        whole, first = plan.crops[0], plan.crops[1]
        rows, columns = plan.grid
        canvas = (columns * self.window + self.side - self.window, rows * self.window + self.side - self.window)
        large = _scaled(levels, first, canvas)
        crops = [
            large[
                row * self.window : row * self.window + self.side,
                column * self.window : column * self.window + self.side,
            ]
            for row in range(rows)
            for column in range(columns)
        ]
        return [_scaled(levels, whole, whole.size), *crops]


def _fit_float32(size: Size, canvas: Size) -> tuple[Size, Size]:
    """(resized, offset) of a picture in the middle of a canvas, rounded as 32-bit floats are."""
    wide, tall = np.float32(size[0]), np.float32(size[1])
    scale = min(np.float32(canvas[0]) / wide, np.float32(canvas[1]) / tall)
    resized = max(1, int(wide * scale)), max(1, int(tall * scale))
    return resized, ((canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2)


def _scaled(levels: np.ndarray, crop: Crop, canvas: Size) -> np.ndarray:
    import torch

    (width, height), (left, top) = crop.resized, crop.offset
    tensor = torch.from_numpy(levels.copy()).permute(2, 0, 1)[None].float() / 255
    tensor = torch.nn.functional.interpolate(
        tensor, (int(height), int(width)), mode="bilinear", antialias=True, align_corners=False
    )
    out = np.zeros((canvas[1], canvas[0], 3), np.float32)
    small = tensor[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
    out[int(top) : int(top) + small.shape[0], int(left) : int(left) + small.shape[1]] = small
    return out
