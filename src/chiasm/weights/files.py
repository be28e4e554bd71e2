"""The two file formats a checkpoint may have: safetensors (headers checked before anything trusts them) and JSON.

A safetensors file is an 8-byte length, a JSON table of (dtype, shape, byte range), and the bytes.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.core.files import write_text

HEADER_LIMIT = 100 * 2**20
JSON_LIMIT = 64 * 2**20
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64}
BITS |= {"F8_E4M3": 8, "F8_E5M2": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor is stored: its file, its shape and its safetensors dtype name."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_header(file: Path) -> dict[str, Entry]:
    """Read and check one safetensors header.

    Args:
        file: the file.

    Returns:
        One `Entry` per tensor.

    Raises:
        CheckpointError: a header that is too long, not JSON, names a tensor twice, or whose byte ranges
            overlap, leave gaps or don't match the file's size (a truncated file).
    """

    def bad(why: str) -> CheckpointError:
        return CheckpointError("safetensors_damaged", f"{file}: {why}")

    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if length > min(HEADER_LIMIT, size - 8) or length < 2:
            raise bad(f"header of {length} bytes in a file of {size}, limit {HEADER_LIMIT}")
        try:
            header = json.loads(stream.read(length), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise bad(f"header is no JSON table ({error})") from None
    if not isinstance(header, dict):
        raise bad("header is no JSON table")
    header.pop("__metadata__", None)
    entries, spans = {}, []
    for name, info in header.items():
        try:
            dtype, shape, (begin, end) = info["dtype"], tuple(info["shape"]), info["data_offsets"]
            bits = BITS[dtype]
            fits = (
                all(type(n) is int and n >= 0 for n in (*shape, begin, end))
                and (end - begin) * 8 == math.prod(shape) * bits
            )
        except (KeyError, TypeError, ValueError):
            raise bad(f"{name} has no known dtype, shape and byte range") from None
        if not fits:
            raise bad(f"{name} takes bytes {begin} to {end}, but is {dtype} of shape {list(shape)}")
        spans.append((begin, end))
        entries[name] = Entry(file, shape, dtype)
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise bad(f"bytes {position} to {begin} belong to no tensor or to two")
        position = end
    if 8 + length + position != size:
        raise bad(f"{size} bytes long, its header says {8 + length + position}")
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)} stands there twice")
    return out


def read_json(file: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Read one JSON object.

    Args:
        file: the file.
        limit: most bytes that are read.

    Returns:
        The object.

    Raises:
        ConfigError: missing, over the limit, not JSON, or not an object.
    """
    try:
        if file.stat().st_size > limit:
            raise ConfigError("json_too_large", f"{file} has {file.stat().st_size} bytes, limit {limit}")
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError("config_missing", f"{file} is not there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("json_malformed", f"{file} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ConfigError("json_malformed", f"{file} holds a {type(value).__name__}, not an object")
    return value


def write_json(file: Path, value: Any) -> None:
    """Write one JSON file through a temporary one.

    Args:
        file: where; its folder must exist.
        value: what `json` can encode.
    """
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
