"""What a command prints: one JSON document or text on standard output, failures in one line on standard error."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chiasm.core.errors import ChiasmError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(ChiasmError):
    """A command line that parses but makes no sense; exit code 2."""

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__("usage", what, hint=hint)


def emit(document: Any) -> None:
    """Print one JSON document, strict (no NaN), as one line on standard output."""
    text = json.dumps(plain(document), ensure_ascii=False, allow_nan=False)
    # a file's name that isn't UTF-8 holds lone surrogates, which JSON can spell and UTF-8 can't
    print(text.encode("utf-8", "backslashreplace").decode(), flush=True)


def say(text: str = "") -> None:
    """Print one line for people on standard output: the result they asked for."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print one line for people on standard error: progress, remarks."""
    print(text, file=sys.stderr, flush=True)


def report(error: ChiasmError, *, as_json: bool) -> None:
    """Print a failure: one line on standard error, and with `--json` an error object on standard output."""
    print(one_line(str(error)), file=sys.stderr, flush=True)
    if as_json:
        emit({"error": {"code": error.code, "message": one_line(error.what), "hint": error.hint}})


def one_line(text: str) -> str:
    """Collapse every run of white space, newlines included, into one space."""
    return " ".join(text.split())


def plain(value: Any) -> Any:
    """Turn tensors, arrays, paths, tuples and data classes into what JSON holds; NaN and infinities become null."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, (Sequence, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return str(value)


def progress(what: str) -> Callable[[int, int], None]:
    """Progress on standard error: one line that changes on a terminal, a line every 10 seconds otherwise."""
    start = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if now - last < (0.2 if terminal else 10) and not (terminal and done == total):
            return
        last = now
        left = (now - start) * (total - done) / max(done, 1)
        line = f"{done:,} of {total:,} {what}, {done / max(now - start, 1e-9):,.0f} a second, {left:.0f} s left"
        if terminal:
            print(f"\r{line}\x1b[K", end="\n" if done == total else "", file=sys.stderr, flush=True)
        else:
            note(line)

    return show
