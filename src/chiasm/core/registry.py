"""The registry of families: one file in `models/` registers one family, and nothing else lists it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chiasm.core.errors import CapabilityError, ConfigError

CAPABILITIES = ("embed", "classify", "match", "generate", "score", "ground", "locate", "imagine")


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What the library knows of a family.

    Attributes:
        name: its stable name.
        summary: one line for people.
        paper: authors, year and title.
        capabilities: which of `CAPABILITIES` its models have.
        config_type: its configuration class, with `build()`.
        presets: every published size by name; built on demand, none costs anything here.
        tiny: a miniature: configuration and working processor, in memory.
        processor: (configuration, parts read from a folder) → the family's processor.
        places: how the family's models are asked for places and write them (a `processing.coordinates` style).
        moments: how they are asked for moments of a video and write them (a `processing.moments` style).
    """

    name: str
    summary: str
    paper: str
    capabilities: tuple[str, ...]
    config_type: type
    presets: Mapping[str, Any]
    tiny: Callable[[], tuple[Any, Any]]
    processor: Callable[[Any, Any], Any]
    places: Any = None
    moments: Any = None


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Add a family; called once by the file that defines it."""
    assert family.name not in _FAMILIES, f"family {family.name} registered twice"
    unknown = set(family.capabilities) - set(CAPABILITIES)
    assert not unknown, f"unknown capabilities {unknown}"
    _FAMILIES[family.name] = family
    return family


def families() -> dict[str, Family]:
    """Every family by name, all files of `chiasm.models` imported."""
    models = importlib.import_module("chiasm.models")
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"chiasm.models.{module.name}")
    return dict(sorted(_FAMILIES.items()))


def family(name: str) -> Family:
    """Look a family up by its name.

    Raises:
        ConfigError: no such family; the known ones are listed.
    """
    known = families()
    if name not in known:
        raise ConfigError("family_unknown", f"no family {name!r}; known are {', '.join(known)}", hint="chiasm models")
    return known[name]


def require(has: Family, capability: str, method: str) -> None:
    """Refuse a method that a family lacks.

    Raises:
        CapabilityError: names the families that have it.
    """
    if capability in has.capabilities:
        return
    able = [name for name, other in families().items() if capability in other.capabilities]
    raise CapabilityError(
        "capability_missing",
        f"{has.name} has no {method}; families that have it: {', '.join(able) or 'none yet'}",
        hint="chiasm models",
    )
