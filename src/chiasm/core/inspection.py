"""What `inspect` tells about one conversation: the exact tokens and pixels that the model would see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chiasm.core.plan import ImagePlan

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Inspection:
    """One conversation as the model sees it.

    Attributes:
        prompt: the token string, every picture's span written once with its count.
        token_ids: every id, picture slots included.
        spans: (start, stop) of every picture's visual tokens in `token_ids`.
        plans: how every picture is resized, cropped and tiled.
        crops: for every picture, its crops as the vision tower sees them.
        memory: bytes by use: `weights`, `pixels`, `cache`, `activations` (estimates).
    """

    prompt: str
    token_ids: Sequence[int]
    spans: Sequence[tuple[int, int]]
    plans: Sequence[ImagePlan]
    crops: Sequence[Sequence[Image.Image]] = field(default=())
    memory: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A plain mapping; the pictures are left to `--save`."""
        pictures = [
            {
                "size": list(plan.source),
                "grid": list(plan.grid),
                "crops": len(plan.crops),
                "crop_size": list(plan.crops[0].size),
                "resized": list(plan.crops[0].resized),
                "tokens": stop - start,
                "span": [start, stop],
                "cropped_share": plan.cropped_share,
            }
            for plan, (start, stop) in zip(self.plans, self.spans, strict=True)
        ]
        return {
            "prompt": self.prompt,
            "tokens": len(self.token_ids),
            "token_ids": list(self.token_ids),
            "pictures": pictures,
            "memory": dict(self.memory),
        }
