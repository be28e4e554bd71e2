"""This library's own layout, for families that nobody published before: our names, our configuration.

``config.json`` holds ``{"model_type": "chiasm", "family": …, "config": …}``; tensors keep the module's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.config import from_dict, to_dict
from chiasm.core.errors import ConfigError
from chiasm.core.registry import families, family
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.meta import build_on_meta, shapes_of
from chiasm.weights.rules import Rename
from chiasm.weights.table import Table


def layout(name: Any) -> Layout:
    """The native layout of a family.

    Raises:
        ConfigError: no such family.
    """
    if not isinstance(name, str):
        raise ConfigError(
            "config_field", f"config.json names family {name!r}, not a known family", hint="chiasm models"
        )
    return Layout(
        name="native",
        family=name,
        model_types=("chiasm",),
        config_type=family(name).config_type,
        config_from=config_from,
        config_to=config_to,
        table=table,
    )


def family_of(config: Any) -> str:
    """The name of the family that a configuration belongs to."""
    return next(name for name, known in families().items() if known.config_type is type(config))


def config_from(config: Mapping[str, Any]) -> Any:
    """Read our own ``config.json``.

    Raises:
        ConfigError: the configuration is absent, or doesn't fit the family.
    """
    if "config" not in config:
        raise ConfigError("config_field", "config.json has no entry 'config'")
    return from_dict(family(config["family"]).config_type, config["config"])


def config_to(config: Any) -> dict[str, Any]:
    """The inverse of `config_from`."""
    return {"model_type": "chiasm", "family": family_of(config), "config": to_dict(config)}


def table(config: Any) -> Table:
    """Every name is itself."""
    return Table([Rename(name, name) for name in shapes_of(build_on_meta(config))])
