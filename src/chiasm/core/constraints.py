"""The form that a reply must have: a JSON schema, one of several texts, or a regular expression."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chiasm.core.errors import ConfigError

MOST_BYTES = 64 * 2**10
MOST_DEPTH = 32
MOST_CHOICES = 1024
MOST_PATTERN = 4096
_SPELLED = ("json_schema", "choices", "regex")


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The reply is a JSON document that a schema admits.

    Attributes:
        schema: the schema as JSON.
    """

    schema: str


@dataclass(frozen=True, slots=True)
class Choices:
    """The reply is one of these texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole reply matches a regular expression, without look-around and back references.

    Attributes:
        pattern: the expression.
    """

    pattern: str


Constraint = JsonSchema | Choices | Regex
ANY_OBJECT = JsonSchema('{"type": "object"}')


def parse_constraint(value: Any) -> Constraint | None:
    """Bring a constraint into its typed form.

    Args:
        value: a `Constraint`; a mapping, which is a JSON schema; a sequence of texts to choose from; a string or a
            compiled pattern, which is a regular expression; or a mapping with one of the keys ``json_schema``,
            ``choices``, ``regex``. None = no constraint.

    Returns:
        The constraint, None for None.

    Raises:
        ConfigError: constraint_unknown for anything else; constraint_invalid for one that makes no sense;
            constraint_too_large for one beyond the limits.
    """
    if value is None or isinstance(value, (JsonSchema, Choices, Regex)):
        return value
    if isinstance(value, Mapping):
        if len(value) == 1 and (name := next(iter(value))) in _SPELLED:
            return _spelled(str(name), value[name])
        return _schema(value)
    if isinstance(value, re.Pattern):
        value = value.pattern
    if isinstance(value, str):
        return _regex(value)
    if isinstance(value, (list, tuple)):
        return _choices(value)
    what = f"a constraint of type {type(value).__name__} is not understood"
    raise ConfigError(
        "constraint_unknown", what, hint='constraint=["yes", "no"], a JSON schema or a regular expression'
    )


def _spelled(name: str, value: Any) -> Constraint:
    if name == "json_schema" and isinstance(value, Mapping):
        return _schema(value)
    if name == "choices" and isinstance(value, (list, tuple)):
        return _choices(value)
    if name == "regex" and isinstance(value, str):
        return _regex(value)
    raise ConfigError("constraint_invalid", f"{name} is a {type(value).__name__}")


def _schema(value: Mapping[str, Any]) -> JsonSchema:
    _check_depth(value)
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise ConfigError("constraint_invalid", f"the schema is no JSON: {error}") from None
    if size > MOST_BYTES:
        raise ConfigError("constraint_too_large", f"the schema has {size} bytes, at most {MOST_BYTES} are taken")
    return JsonSchema(text)


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise ConfigError("constraint_too_large", f"the schema is nested deeper than {MOST_DEPTH}")
        level = [child for each in level for child in _children(each)]
        huge = next((each for each in level if isinstance(each, int) and abs(each) >= 2**63), None)
        if huge is not None:
            raise ConfigError("constraint_too_large", f"the schema holds a whole number of {huge.bit_length()} bits")
        if len(level) > MOST_BYTES:
            raise ConfigError("constraint_too_large", f"the schema has {len(level)} parts at one depth")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def _choices(value: Sequence[Any]) -> Choices:
    if not value or not all(isinstance(text, str) and text for text in value):
        raise ConfigError("constraint_invalid", f"{len(value)} choices given; at least 1 is needed, each a text")
    size = sum(len(text.encode(errors="replace")) for text in value)
    if len(value) > MOST_CHOICES or size > MOST_BYTES:
        what = f"{len(value)} choices of {size} bytes, at most {MOST_CHOICES} of {MOST_BYTES} are taken"
        raise ConfigError("constraint_too_large", what)
    return Choices(tuple(dict.fromkeys(value)))


def _regex(value: str) -> Regex:
    if not value:
        raise ConfigError("constraint_invalid", "the regular expression has 0 characters")
    if len(value) > MOST_PATTERN:
        what = f"the regular expression has {len(value)} characters, at most {MOST_PATTERN} are taken"
        raise ConfigError("constraint_too_large", what)
    return Regex(value)
