"""The feature store in training: what a frozen vision tower says of a picture is computed once, not once an epoch.

`frozen_features` looks whether a module's tower is frozen. If so, its `processor` gives batches with stored `features`
in place of pixels (a stored picture is neither drawn nor decoded), and `fill` computes what isn't stored yet. Features
are keyed by the picture's content, the tower's weights and configuration, and the picture processing.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.errors import ChiasmError
from chiasm.core.media import LazyPicture, StoredPicture
from chiasm.core.messages import Conversation, ImagePart, Message, VideoPart, parse_conversation
from chiasm.core.plan import ImagePlan
from chiasm.processing.processor import listed
from chiasm.training.store import FeatureStore

CHUNK = 32  # crops the tower takes at once
_MOST = 1 << 30  # bytes of a picture's file that are read for its key


def frozen_features(
    module: nn.Module,
    processor: Any,
    folder: Path,
    *,
    limit_bytes: int = 20 << 30,
    dtype: str = "float32",
    tell: Callable[[str], None] | None = None,
) -> FrozenFeatures | None:
    """The store of a module's vision tower, if the tower is frozen.

    Args:
        module: has `vision` and `visual_features`; weights are loaded and what is frozen doesn't require gradients.
        processor: the model's own; without augmentation.
        folder: holds stores, of any models.
        limit_bytes: of all of them together.
        dtype: of stored numbers; ``float16`` halves the room and changes features by up to 1 part in 2,000.
        tell: called with one line when a store is full, damaged or evicted.

    Returns:
        The store at work; None where the tower learns, or the module has none.
    """
    pictures = getattr(processor, "image_processor", None)
    vision = _frozen_part(module)
    if pictures is None or vision is None or not hasattr(module, "visual_features"):
        return None
    parameters = list(vision.parameters())
    if not parameters or any(parameter.requires_grad for parameter in parameters):
        return None
    description = {
        "module": _named(module),
        "tower": _tower_config(module),
        "weights": weights_hash(vision),
        "processing": _processing(pictures),
    }
    store = FeatureStore(folder, description, limit_bytes=limit_bytes, dtype=dtype, tell=tell)
    return FrozenFeatures(module, processor, store)


class FrozenFeatures:
    """A frozen tower's features, from the store or computed.

    Args:
        module: whose `visual_features` are stored.
        processor: the model's own.
        store: where they go.
    """

    def __init__(self, module: Any, processor: Any, store: FeatureStore) -> None:
        self.module, self.store = module, store
        self.processor = StoringProcessor(processor, store)
        self.hits = self.computed = 0

    def fill(self, batch: Batch) -> Batch:
        """The batch with `features` in place of pixels; what isn't stored is computed and stored.

        Args:
            batch: from `processor`, packed or not.

        Returns:
            A batch with `features` (crops, …) float32 and without `pixel_values`; the batch as it is where it holds
            no picture with a key.
        """
        if batch.features is not None:
            self.hits += len(batch.plans)
            return replace(batch, features=batch.features.float())
        if batch.pixel_values is None or not batch.picture_keys:
            return batch
        counts = [len(plan.crops) for plan in batch.plans]
        crops = dict(zip(batch.picture_keys, batch.pixel_values.split(counts), strict=True))
        plans = dict(zip(batch.picture_keys, batch.plans, strict=True))
        stored = dict(zip(crops, self.store.get(list(crops)), strict=True))
        features = {key: torch.from_numpy(found[0].copy()) for key, found in stored.items() if found is not None}
        missing = [key for key in crops if key not in features]
        self.hits, self.computed = self.hits + len(counts) - len(missing), self.computed + len(missing)
        if missing:
            values = self._compute(torch.cat([crops[key] for key in missing])).split(
                [len(crops[key]) for key in missing]
            )
            for key, value in zip(missing, values, strict=True):
                array = value.float().cpu().numpy().astype(self.store.dtype)
                self.store.put(key, array, list(plans[key].source))
                features[key] = torch.from_numpy(array)
        filled = torch.cat([features[key] for key in batch.picture_keys])
        return replace(batch, features=filled.float().to(batch.pixel_values.device), pixel_values=None)

    def report(self) -> dict[str, int]:
        """Pictures stored, found and computed so far, and bytes of the folder."""
        return {
            "stored": len(self.store), "hits": self.hits, "computed": self.computed, "bytes": self.store.num_bytes
        }  # fmt: skip

    def close(self) -> None:
        """Put everything on disk."""
        self.store.close()

    @torch.no_grad()
    def _compute(self, pixels: torch.Tensor) -> torch.Tensor:
        vision = _frozen_part(self.module)
        weight = next(vision.parameters())
        training = vision.training
        vision.eval()
        parts = [self.module.visual_features(part.to(weight)) for part in pixels.split(CHUNK)]
        vision.train(training)
        return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class Known:
    """A stored picture on its way through a processor: its size, and features where pixels would be."""

    size: tuple[int, int]
    features: np.ndarray


class StoringProcessor:
    """A processor that asks the store first.

    Args:
        processor: the model's own; everything but pictures is its business.
        store: of features.
    """

    def __init__(self, processor: Any, store: FeatureStore) -> None:
        self._processor, self._store = processor, store
        self._remembering = copy.copy(processor)
        self._remembering.image_processor = _Remembering(processor.image_processor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, conversations: Any, **options: Any) -> Batch:
        """As the processor's own call; with `features` where all pictures are stored, else with `picture_keys`."""
        parsed = [parse_conversation(conversation) for conversation in listed(conversations)]
        if any(isinstance(part, VideoPart) for each in parsed for turn in each.messages for part in turn.parts):
            return self._processor(parsed, **options)
        keys = [picture_key(part.source) for conversation in parsed for part in conversation.images()]
        known = self._known(keys)
        if known is None:
            return _keyed(self._processor(parsed, **options), keys)
        left = iter(known)
        return _featured(self._remembering([_with_pictures(each, left) for each in parsed], **options), keys)

    def images(self, images: Any) -> Batch:
        """As the processor's own method; with `features` where all pictures are stored, else with `picture_keys`."""
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        keys = [picture_key(image) for image in images]
        known = self._known(keys)
        if known is None:
            return _keyed(self._processor.images(images), keys)
        return _featured(self._remembering.images(known), keys)

    def _known(self, keys: Sequence[str | None]) -> list[Known] | None:
        wanted = [key for key in keys if key is not None]
        if not keys or len(wanted) < len(keys):
            return None
        found = self._store.get(wanted)
        return [Known(tuple(f[1]), f[0]) for f in found if f is not None] if all(f is not None for f in found) else None


class _Remembering:
    """Stands in for an image processor where every picture is `Known`: plans from sizes, features for pixels."""

    def __init__(self, pictures: Any) -> None:
        self._pictures = pictures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pictures, name)

    def read(self, source: Known) -> Known:
        return source

    def plan(self, picture: Known) -> ImagePlan:
        return self._pictures.plan(picture.size)

    def pixels(self, pictures: Sequence[Known]) -> tuple[torch.Tensor, list[ImagePlan]]:
        features = torch.from_numpy(np.concatenate([picture.features for picture in pictures]))
        return features, [self.plan(picture) for picture in pictures]


def picture_key(source: Any) -> str | None:
    """A name for a picture's content: equal names, equal pixels.

    Args:
        source: what `processing.pictures.read_picture` takes.

    Returns:
        The name; None where the source can't be read (the processor will say why) or is of no known kind.
    """
    try:
        if isinstance(source, LazyPicture):
            return f"lazy:{source.fingerprint}"
        if isinstance(source, Image.Image):
            palette = source.getpalette() if source.mode == "P" else None
            about = repr(
                (source.mode, source.size, palette, sorted(source.getexif().items()), source.info.get("transparency"))
            )
            return _digest(about.encode(), source.tobytes())
        if isinstance(source, np.ndarray):
            return _digest(repr((source.shape, source.dtype)).encode(), np.ascontiguousarray(source).tobytes())
        if isinstance(source, Path):  # before `StoredPicture`, which it looks like
            return _digest(source.read_bytes())
        if isinstance(source, StoredPicture):
            return _digest(source.read_bytes(_MOST))
        if isinstance(source, (bytes, bytearray)):
            return _digest(bytes(source))
        if isinstance(source, str) and (source.startswith("data:") or len(source) > 4096):
            return _digest(source.encode())
        if isinstance(source, str):
            return _digest(Path(source).read_bytes())
    except (ChiasmError, OSError, ValueError):
        return None
    return None


def weights_hash(module: nn.Module) -> str:
    """A hash of a module's parameters and buffers, by name, type, shape and value."""
    whole = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1)
        whole.update(raw.view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _digest(*parts: bytes) -> str:
    whole = blake2b(digest_size=20)
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.hexdigest()


def _frozen_part(module: Any) -> Any:
    """What `visual_features` comes from: the tower, or the trunk of a tower whose other layers learn."""
    vision = getattr(module, "vision", None)
    return getattr(vision, "trunk", vision) if isinstance(vision, nn.Module) else None


def _named(module: Any) -> str:
    """How features are read off the tower; families that read alike share a store."""
    if getattr(module, "plain_reading", False):
        return "reading"
    return "trunk" if hasattr(module.vision, "trunk") else type(module).__name__


def _tower_config(module: Any) -> str:
    """What of the configuration `visual_features` may depend on: everything but the other parts."""
    config = getattr(module, "config", None)
    if _named(module) == "trunk":
        return repr(module.vision.trunk.config)
    if not dataclasses.is_dataclass(config):
        return repr(config)
    if getattr(module, "plain_reading", False):  # families over one tower share a store
        return repr((getattr(config, "vision", None), getattr(config, "reading", None)))
    others = ("connector", "language", "image_token_id")
    return repr([(f.name, getattr(config, f.name)) for f in dataclasses.fields(config) if f.name not in others])


def _processing(pictures: Any) -> str:
    if dataclasses.is_dataclass(pictures):  # how many tokens a connector makes of a crop changes no pixel
        names = [field.name for field in dataclasses.fields(pictures) if field.name != "crop_tokens"]
        return repr([(name, getattr(pictures, name)) for name in names])
    return json.dumps(pictures.to_config(), sort_keys=True)


def _keyed(batch: Batch, keys: Sequence[str | None]) -> Batch:
    if len(keys) == len(batch.plans) and all(key is not None for key in keys):
        return replace(batch, picture_keys=tuple(key for key in keys if key is not None))
    return batch


def _featured(batch: Batch, keys: Sequence[str | None]) -> Batch:
    return _keyed(replace(batch, features=batch.pixel_values, pixel_values=None), keys)


def _with_pictures(conversation: Conversation, pictures: Any) -> Conversation:
    turns = (
        Message(turn.role, tuple(ImagePart(next(pictures)) if isinstance(p, ImagePart) else p for p in turn.parts))
        for turn in conversation.messages
    )
    return Conversation(tuple(turns))
