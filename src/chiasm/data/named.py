"""Data sets that have a name instead of a path: generated worlds and packs of pictures.

A name may carry settings: `scenes:split=test,count=1000,seed=3`. Values are JSON where they parse as JSON and text
otherwise; they become keyword arguments of the opener.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.samples import Dataset

# name → "module:function"; imported only when somebody asks for the name
OPENERS: dict[str, str] = {}
_SPEC = re.compile(r"([a-z][a-z0-9_-]*)(?::(.*))?", re.DOTALL)


def is_named(spec: str) -> bool:
    """Whether `spec` begins with a known name."""
    match = _SPEC.fullmatch(spec)
    return match is not None and match.group(1) in OPENERS


def open_named(spec: str) -> Dataset:
    """Open a data set by name.

    Args:
        spec: a name of `OPENERS`, alone or followed by a colon and `setting=value` pairs.

    Raises:
        DataError: no such name, or a setting that it doesn't have.
    """
    match = _SPEC.fullmatch(spec)
    if match is None or match.group(1) not in OPENERS:
        raise DataError("data_unknown", f"no data set is called {spec!r}; known names are {', '.join(sorted(OPENERS))}")
    name, words = match.group(1), match.group(2) or ""
    module, _, function = OPENERS[name].partition(":")
    opener = getattr(importlib.import_module(module), function)
    settings = dict(_setting(word, name) for word in words.split(",") if word.strip())
    known = list(inspect.signature(opener).parameters)
    if unknown := [setting for setting in settings if setting not in known]:
        raise DataError("data_setting", f"{name} has no setting {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    return opener(**settings)


def _setting(word: str, name: str) -> tuple[str, Any]:
    key, equals, text = word.strip().partition("=")
    if not equals:
        raise DataError("data_setting", f"{name}: {word.strip()!r} has no equals sign", hint=f"{name}:split=test")
    try:
        return key, json.loads(text)
    except ValueError:
        return key, text
