"""Reading published configs: missing fields take the reference class's defaults, wrong ones are named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError


class Fields:
    """One published config (or a nested part) with its defaults.

    Args:
        config: as stored; None counts as missing.
        defaults: the reference class's defaults; a field without one is required.
        where: how errors name this part, such as ``vision_config``.
    """

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
        self.config, self.defaults, self.where = config, defaults, where

    def get(self, key: str) -> Any:
        """The field, or its default.

        Raises:
            ConfigError: neither is there.
        """
        value = self.config.get(key)
        if value is not None:
            return value
        if key in self.defaults:
            return self.defaults[key]
        raise ConfigError("config_field", f"{self.where} has no {key}")

    def count(self, key: str) -> int:
        """A positive whole number; a pair of equal ones counts as one (square pictures).

        Raises:
            ConfigError: it is something else.
        """
        value = self.get(key)
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError("config_field", f"{self.where}.{key} is {value!r}, not a positive whole number")
        return value

    def number(self, key: str) -> float:
        """A number.

        Raises:
            ConfigError: it is something else.
        """
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError("config_field", f"{self.where}.{key} is {value!r}, not a number")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false.

        Raises:
            ConfigError: it is something else.
        """
        value = self.get(key)
        if not isinstance(value, bool):
            raise ConfigError("config_field", f"{self.where}.{key} is {value!r}, not true or false")
        return value

    def expect(self, key: str, *allowed: Any) -> None:
        """Refuse a variant that we don't build.

        Raises:
            ConfigError: the field's value is none of `allowed`.
        """
        value = self.get(key)
        if value not in allowed:
            known = ", ".join(repr(a) for a in allowed)
            raise ConfigError("config_variant", f"{self.where}.{key} is {value!r}; known: {known}")

    def part(self, key: str) -> Mapping[str, Any]:
        """A nested config; empty when it is missing.

        Raises:
            ConfigError: it is no object.
        """
        value = self.config.get(key) or {}
        if not isinstance(value, Mapping):
            raise ConfigError("config_field", f"{self.where}.{key} is a {type(value).__name__}, not an object")
        return value
