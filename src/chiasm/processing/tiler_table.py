"""One picture through every tiler, as a table: `python -m chiasm.processing.tiler_table WIDTH HEIGHT [TOKENS]`."""

from __future__ import annotations

import sys

from chiasm.core.errors import ChiasmError
from chiasm.core.plan import ImagePlan
from chiasm.processing.budget import within
from chiasm.processing.dynamic_tilers import DynamicTiles, HDTransform, OverlapCrops
from chiasm.processing.native_tilers import NativePack, SmartResize
from chiasm.processing.tilers import AnyRes, CenterCrop, PadSquare, Size, Stretch, Tiler

# As the published checkpoints set them: CLIP's and SigLIP's towers in a language model, then the high-resolution ones.
TILERS: dict[str, Tiler] = {
    "CenterCrop (CLIP 336)": CenterCrop(resize=336, crop=(336, 336), patch=14),
    "Stretch (SigLIP 384)": Stretch(size=(384, 384), patch=14),
    "Stretch (CogVLM 490)": Stretch(size=(490, 490), patch=14, extra=2),
    "Stretch (CogVLM2 1344)": Stretch(size=(1344, 1344), patch=28, extra=2),
    "PadSquare (LLaVA-1.5)": PadSquare(patch=14),
    "AnyRes (LLaVA-NeXT)": AnyRes(patch=14),
    "DynamicTiles (InternVL2)": DynamicTiles(),
    "HDTransform (XComposer2-4KHD)": HDTransform(),
    "OverlapCrops (Molmo)": OverlapCrops(),
    "SmartResize (Qwen2.5-VL)": SmartResize(),
    "NativePack (Kimi-VL)": NativePack(),
}


def table(size: Size, tokens: int | None = None) -> str:
    """A Markdown table of what each tiler makes of a picture.

    Args:
        size: (width, height) in pixels.
        tokens: a budget of visual tokens; None = as published.

    Returns:
        One row a tiler; a refusal stands in its row.
    """
    rows = [
        "| tiler | tokens | crops | grid | crop pixels | picture shown at | cut off |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, tiler in TILERS.items():
        try:
            plan = (tiler if tokens is None else within(tiler, tokens)).plan(size)
        except ChiasmError as error:
            rows.append(f"| {name} | {error.code}: {error.what} | | | | | |")
            continue
        rows.append(f"| {name} | {' | '.join(_cells(plan))} |")
    return "\n".join(rows)


def _cells(plan: ImagePlan) -> list[str]:
    largest = max(plan.crops, key=lambda crop: crop.resized[0] * crop.resized[1])
    shown = f"{largest.resized[0]:.0f}×{largest.resized[1]:.0f}"
    crop = plan.crops[0].size
    grid = f"{plan.grid[0]}×{plan.grid[1]}"
    return [
        str(plan.num_tokens),
        str(len(plan.crops)),
        grid,
        f"{crop[0]}×{crop[1]}",
        shown,
        f"{abs(plan.cropped_share):.0%}",
    ]


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    print(table((numbers[0], numbers[1]), numbers[2] if len(numbers) > 2 else None))
