"""Data sets that have a name instead of a path: generated worlds and packs of pictures.

A name may carry words and settings: `scenes:test:counting,yes_no?size=128&count=1000`, `scenes:split=test,seed=3`.
Colons, commas, `?` and `&` all part them. Values are JSON where they parse as JSON and text otherwise; settings become
keyword arguments of the opener, and the bare words, such as a split, its argument `words`.
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
_BUILTIN = (
    "scenes", "stamps", "clipart", "openmoji",
    "noto", "noto-v1", "twemoji", "fluent-emoji-flat", "emojione", "emojione-v1",
)  # fmt: skip
OPENERS: dict[str, str] = {name: f"chiasm.data.builtin:{name.replace('-', '_')}" for name in _BUILTIN}
_SPEC = re.compile(r"([a-z][a-z0-9_-]*)(?:[:?](.*))?", re.DOTALL)


def is_named(spec: str) -> bool:
    """Whether `spec` begins with a known name."""
    match = _SPEC.fullmatch(spec)
    return match is not None and match.group(1) in OPENERS


def open_named(spec: str) -> Dataset:
    """Open a data set by name.

    Args:
        spec: a name of `OPENERS`, alone or followed by a colon, words and `setting=value` pairs.

    Raises:
        DataError: no such name, or a setting that it doesn't have.
    """
    match = _SPEC.fullmatch(spec)
    if match is None or match.group(1) not in OPENERS:
        raise DataError("data_unknown", f"no data set is called {spec!r}; known names are {', '.join(sorted(OPENERS))}")
    name, words = match.group(1), match.group(2) or ""
    module, _, function = OPENERS[name].partition(":")
    opener = getattr(importlib.import_module(module), function)
    parts = [part.strip() for part in re.split(r"[:,?&]", words) if part.strip()]
    settings = dict(_setting(part) for part in parts if "=" in part)
    bare = tuple(part for part in parts if "=" not in part)
    known = list(inspect.signature(opener).parameters)
    if bare and "words" not in known:
        raise DataError("data_setting", f"{name}: {bare[0]!r} has no equals sign", hint=f"{name}:split=test")
    if unknown := [setting for setting in settings if setting not in known]:
        told = ", ".join(setting for setting in known if setting != "words") or "none"
        raise DataError("data_setting", f"{name} has no setting {unknown[0]!r}; it has {told}")
    if bare:
        settings["words"] = bare
    return opener(**settings)


def _setting(word: str) -> tuple[str, Any]:
    key, _, text = word.partition("=")
    try:
        return key.strip(), json.loads(text)
    except ValueError:
        return key.strip(), text
