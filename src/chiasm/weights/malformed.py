"""Whose fault it is when a folder's settings can't be used: a value's that stands there, or our own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chiasm.core.errors import ChiasmError, ConfigError

_STORED = (type(None), bool, int, float, str, list, tuple, dict)  # what a JSON file is read as
_UNFIT_CALL = re.compile(r"\(\) (got an unexpected|got multiple values|missing \d+ required|takes )")


@contextmanager
def said_by(folder: Path) -> Iterator[None]:
    """While a folder's settings are read: a value of a kind that nobody looks for there is the folder's fault.

    An error that no value can bring about is our own and goes through as it is.

    Raises:
        ConfigError: a value can't be used.
    """
    try:
        yield
    except ChiasmError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if _is_ours(error):
            raise
        said = str(error).splitlines()[0] if str(error) else ""
        what = f"{folder}: its configuration, tokenizer or picture settings hold a value that can't be used ({said})"
        raise ConfigError("config_malformed", what, hint="the same with --debug, which shows where") from error


def _is_ours(error: Exception) -> bool:
    """Whether no stored value explains an error.

    A stored value lacks an attribute that code asks it for; an object of any other type lacks none unless the code is
    wrong. Nothing stored is handed to a function as its keywords (`core.config` does, and says so itself), so a call
    that doesn't fit its function was written so. Names and assertions (`NameError`, `AssertionError`) aren't caught.
    """
    if isinstance(error, AttributeError):
        return not isinstance(error.obj, _STORED)
    if isinstance(error, TypeError):
        return _UNFIT_CALL.search(str(error)) is not None
    return isinstance(error, NotImplementedError)
