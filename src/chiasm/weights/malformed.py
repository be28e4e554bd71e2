"""Whose fault it is when a folder's settings can't be used: a value's that stands there, or our own."""

from __future__ import annotations

import re
import reprlib
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from chiasm.core.errors import ChiasmError, ConfigError
from chiasm.weights.checkpoint import read_config

_STORED = (type(None), bool, int, float, str, list, tuple, dict)  # what a JSON file is read as
_UNFIT_CALL = re.compile(r"\(\) (got an unexpected|got multiple values|missing \d+ required|takes )")

_SECONDS = 1.0  # of processor time, for looking for the value at fault


@contextmanager
def said_by(folder: Path, understand: Callable[[dict[str, Any]], object] | None = None) -> Iterator[None]:
    """While a folder's settings are read: a value of a kind that nobody looks for there is the folder's fault.

    An error that no value can bring about is our own and goes through as it is. What is asserted while a model is
    built from a file, the file can break.

    Args:
        folder: with the settings.
        understand: what is done with its configuration; where it fails, the entries at fault are looked for and named.

    Raises:
        ConfigError: a value can't be used.
    """
    try:
        yield
    except ChiasmError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if _is_ours(error):
            raise
        what = f"{folder}: its configuration, tokenizer or picture settings hold a value that can't be used"
        found = ""
        if understand is not None:
            with suppress(ConfigError, RecursionError):
                found = _at_fault(read_config(folder), understand)
        told = f"{what}{found} ({_said(error)})"
        raise ConfigError("config_malformed", told, hint="the same with --debug, which shows where") from error


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"nothing is known by the name {reprlib.repr(error.args[0])}" if error.args else "an unknown name"
    if isinstance(error, AssertionError) and not str(error):
        return traceback.extract_tb(error.__traceback__)[-1].line or "assert"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _at_fault(config: dict[str, Any], understand: Callable[[dict[str, Any]], object]) -> str:
    """The entries without any one of which, and its default in its place, a configuration would be understood."""
    stop = time.thread_time() + _SECONDS
    found: dict[str, str] = {}
    if _works(understand, config):  # the fault is the tokenizer's or the pictures'
        return ""
    for holder, key, path in list(_entries(config, "")):
        if time.thread_time() > stop or len(found) == 3:
            break
        if any(inner.startswith(f"{path}.") for inner in found):
            continue
        value = holder.pop(key)
        if _works(understand, config):
            found[path] = f"{path} is {reprlib.repr(value)}"
        holder[key] = value
    return f": {' or '.join(found.values())}" if found else ""


def _entries(holder: dict[str, Any], inside: str) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Every entry, the inner ones first."""
    for key, value in holder.items():
        if isinstance(value, dict):
            yield from _entries(value, f"{inside}{key}.")
        yield holder, key, f"{inside}{key}"


def _works(understand: Callable[[dict[str, Any]], object], config: dict[str, Any]) -> bool:
    try:
        understand(config)
    except Exception:
        return False
    return True


def _is_ours(error: Exception) -> bool:
    """Whether no stored value explains an error.

    A stored value lacks an attribute that code asks it for; an object of any other type lacks none unless the code is
    wrong. Nothing stored is handed to a function as its keywords (`core.config` does, and says so itself), so a call
    that doesn't fit its function was written so. Names (`NameError`) aren't caught.
    """
    if isinstance(error, AttributeError):
        return not isinstance(error.obj, _STORED)
    if isinstance(error, TypeError):
        return _UNFIT_CALL.search(str(error)) is not None
    return isinstance(error, NotImplementedError)
