"""The command line: one file per verb, no torch until a verb needs it.

Exit codes: 0 done, 1 failed, 2 wrong usage. With `--json` standard output holds one JSON document and nothing
else; everything for people goes to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: the words after the program's name; `sys.argv[1:]` by default.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    from chiasm.cli.app import dispatch

    return dispatch(list(sys.argv[1:] if argv is None else argv))


def run() -> None:
    """The `chiasm` program."""
    sys.exit(main())
