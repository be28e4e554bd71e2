"""Configuration dataclasses ↔ JSON: the stored form of the families that this library publishes itself.

A dataclass becomes a mapping with its class's name under ``type``. Reading takes only classes that the expected
type's annotations name, and subclasses of those that their modules define, so a file can't choose what is built.
`check` holds a model's numbers to what their names can mean: nothing is built of a width of 0 or 10³⁰.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import ConfigError

_SIZE = re.compile(r"num_(?!types$)\w+|(embed|hidden|head|mlp|input)_dim|\w+_size|position_grid|context_length")
_FROM_END = ("layer", "layers")  # a layer's number may count from the end
_MOST_OF = {"image_size": 2**13, "max_tiles": 2**10, "min_tiles": 2**10}  # pixels of a side; every grid is looked at
_MOST, _LARGEST = 2**31 - 1, 3.4028235e38  # what ids and float32 hold


def to_dict(config: Any) -> Any:
    """A configuration dataclass → plain JSON values, nested ones included."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
        return {"type": type(config).__name__, **fields}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    return config


def from_dict(kind: type, data: Any, where: str = "config") -> Any:
    """Plain JSON values → a configuration.

    Args:
        kind: the expected dataclass.
        data: what `to_dict` gave.
        where: how errors name it.

    Returns:
        An instance of `kind`.

    Raises:
        ConfigError: an unknown type or field, or a value of the wrong kind; it is named by its path.
    """
    return _read(kind, data, where)


def check(config: Any) -> None:
    """Hold a model's configuration, wherever it was read, to its fields' types and to what their names can mean.

    Args:
        config: a dataclass.

    Raises:
        ConfigError: a value of the wrong kind, or a number out of range; it is named by its path.
    """
    _check_range(to_dict(from_dict(type(config), to_dict(config))), "", "config")


def choices_of(kind: Any) -> list[type]:
    """Every dataclass that a value of an annotated type can be: the annotated ones and their subclasses."""
    return [c for choice in _choices(kind) for c in _dataclasses(choice)]


def _read(kind: Any, data: Any, where: str) -> Any:
    choices, classes = _choices(kind), choices_of(kind)
    if classes:
        if data is None and type(None) in choices:
            return None
        return _read_dataclass(classes, data, where)
    several = [choice for choice in choices if typing.get_origin(choice) is tuple]
    if several and (len(choices) == 1 or isinstance(data, (list, tuple))):
        return _read_tuple(typing.get_args(several[0]), data, where)
    plain = tuple(choice for choice in choices if isinstance(choice, type))
    if float in plain and isinstance(data, int) and not isinstance(data, bool):
        return data if int in plain else float(data)
    if isinstance(data, bool) and bool not in plain or not isinstance(data, plain):
        raise _unfit(where, data, " or ".join(c.__name__ for c in plain))
    return data


def _check_range(data: Any, name: str, where: str) -> None:
    if isinstance(data, dict):
        for key, value in data.items():
            _check_range(value, key, f"{where}.{key}")
    elif isinstance(data, list):
        for at, value in enumerate(data):
            _check_range(value, name, f"{where}[{at}]")
    elif isinstance(data, float):
        least = 0 if name.endswith("eps") else -_LARGEST
        if not least <= data <= _LARGEST:  # NaN, too
            raise _unfit(where, data, f"a number from {least} to {_LARGEST}")
    elif isinstance(data, int) and not isinstance(data, bool):
        least = 1 if _SIZE.fullmatch(name) else -_MOST if name in _FROM_END else 0
        most = _MOST_OF.get(name, _MOST)
        if not least <= data <= most:
            raise _unfit(where, data, f"a whole number from {least} to {most}")


def _unfit(where: str, data: Any, wanted: str) -> ConfigError:
    return ConfigError("config_value", f"{where} is {reprlib.repr(data)}, not {wanted}")


def _read_dataclass(classes: list[type], data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise _unfit(where, data, "a mapping")
    by_name = {c.__name__: c for c in classes}
    name = data.get("type", classes[0].__name__)
    if not isinstance(name, str) or name not in by_name:
        raise ConfigError("config_type", f"{where} has type {reprlib.repr(name)}; known here are {', '.join(by_name)}")
    chosen = by_name[name]
    hints = typing.get_type_hints(chosen)
    fields = {field.name: field for field in dataclasses.fields(chosen) if field.init}
    unknown = sorted(set(data) - set(fields) - {"type"})
    if unknown:
        raise ConfigError("config_field", f"{where} has {len(unknown)} unknown fields, first {unknown[0]!r}")
    values = {key: _read(hints[key], data[key], f"{where}.{key}") for key in fields if key in data}
    try:
        return chosen(**values)
    except TypeError as error:
        raise ConfigError("config_field", f"{where}: {error}") from None


def _read_tuple(inner: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, (list, tuple)):
        raise _unfit(where, data, "a list")
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(data)
    if len(inner) != len(data):
        raise ConfigError("config_value", f"{where} has {len(data)} entries, needs {len(inner)}")
    return tuple(_read(kind, item, f"{where}[{at}]") for at, (kind, item) in enumerate(zip(inner, data, strict=True)))


def _choices(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _dataclasses(kind: Any) -> list[type]:
    """A dataclass and its subclasses; nothing for any other type."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return []
    # a slotted dataclass is made anew under its own name, and the discarded first one stays listed before it
    found: dict[str, type] = {kind.__name__: kind}
    for c in type.__subclasses__(kind):
        if c.__name__ != kind.__name__:
            found |= {each.__name__: each for each in _dataclasses(c)}
    return list(found.values())
