"""`Layout`: everything about one published form of a family's checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chiasm.weights.rules import Shape
from chiasm.weights.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One published layout.

    Attributes:
        name: stable name.
        family: the family in `core.registry` whose models it stores.
        model_types: what configs of this layout say under ``model_type``.
        config_type: our configuration class.
        config_from: published config → ours.
        config_to: ours → published config; raises `ConfigError` for a variant that the layout can't hold.
        table: our config → the table of its tensors.
        recognise: shapes of an authors' checkpoint without a config → the config that describes it, or None.
        stem: name of the weight files, without suffix.
        config_file: name of the config file.
        modules: (prefix of a tensor in a file, prefix in the reference's own module) where the two differ; adapters
            name the module's.
    """

    name: str
    family: str
    model_types: tuple[str, ...]
    config_type: type
    config_from: Callable[[Mapping[str, Any]], Any]
    config_to: Callable[[Any], dict[str, Any]]
    table: Callable[[Any], Table]
    recognise: Callable[[Mapping[str, Shape]], dict[str, Any] | None] | None = None
    stem: str = "model"
    config_file: str = "config.json"
    modules: tuple[tuple[str, str], ...] = ()
