"""chiasm: vision-language models from a few shared parts.

Everything public is a lazy attribute, so `import chiasm` reads no torch and costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chiasm.core.batch import Batch
    from chiasm.core.errors import (
        CapabilityError,
        CheckpointError,
        ChiasmError,
        ConfigError,
        PictureError,
        PromptError,
        SourceError,
    )
    from chiasm.core.plan import ImagePlan
    from chiasm.core.registry import families
    from chiasm.models.model import Model
    from chiasm.weights.load import load, new

    __version__: str

_HOMES = {
    "load": "chiasm.weights.load",
    "new": "chiasm.weights.load",
    "families": "chiasm.core.registry",
    "Model": "chiasm.models.model",
    "Batch": "chiasm.core.batch",
    "ImagePlan": "chiasm.core.plan",
    "ChiasmError": "chiasm.core.errors",
    "CapabilityError": "chiasm.core.errors",
    "CheckpointError": "chiasm.core.errors",
    "ConfigError": "chiasm.core.errors",
    "PictureError": "chiasm.core.errors",
    "PromptError": "chiasm.core.errors",
    "SourceError": "chiasm.core.errors",
}

__all__ = [
    "Batch",
    "CapabilityError",
    "CheckpointError",
    "ChiasmError",
    "ConfigError",
    "ImagePlan",
    "Model",
    "PictureError",
    "PromptError",
    "SourceError",
    "families",
    "load",
    "new",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("chiasm")
        except PackageNotFoundError:  # a source tree on PYTHONPATH, not installed
            value = "0+source"
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'chiasm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})
