"""The README's list of files is the tree's, and every file says in one sentence what it is."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOL = runpy.run_path(str(ROOT / "tools" / "file_list.py"))


def test_the_list_of_files_is_true() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert TOOL["updated"](readme) == readme, "run: python tools/file_list.py"


def test_every_module_says_what_it_is() -> None:
    silent = [path for path in (ROOT / "src").rglob("*.py") if not TOOL["first_sentence"](path)]
    assert not silent
