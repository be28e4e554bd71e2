"""JSON as data sets hold it, read strictly: UTF-8 only, no NaN, no name twice, no bottomless nesting."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from chiasm.core.errors import DataError

_UNIQUE_LIMIT = 2**25  # characters; the names of larger documents aren't compared, which would take minutes


def parse_json(data: bytes | str, what: str = "the text") -> Any:
    """Parse one JSON document.

    Args:
        data: the document; bytes must be UTF-8, with or without a byte order mark.
        what: what is parsed, for messages.

    Raises:
        DataError: text_encoding, json_malformed (also a name that stands twice in one object), json_not_finite
            or json_too_deep.
    """
    text = decode(data, what) if isinstance(data, bytes) else data
    try:
        unique = _unique if len(text) <= _UNIQUE_LIMIT else None
        return json.loads(text, parse_constant=_constant, object_pairs_hook=unique)
    except DataError as error:
        raise DataError(error.code, f"{what} {error.what}", hint=error.hint) from None
    except RecursionError:
        raise DataError("json_too_deep", f"{what} is nested too deeply to be read") from None
    except ValueError as error:
        raise DataError("json_malformed", f"{what} is not JSON: {_first_line(error)}") from None


def decode(data: bytes, what: str = "the text") -> str:
    """Bytes as UTF-8 text, a byte order mark dropped.

    Raises:
        DataError: text_encoding, with the offset of the first bad byte.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = data[error.start : error.start + 1].hex()
        raise DataError(
            "text_encoding", f"{what} is not UTF-8: byte 0x{bad} at {error.start} of {len(data)}", hint="save as UTF-8"
        ) from None


def _constant(name: str) -> NoReturn:
    raise DataError("json_not_finite", f"holds {name}, which JSON doesn't have", hint="write null instead")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError("json_malformed", f"holds the name {twice!r} {names.count(twice)} times in one object")
    return found


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:160]
