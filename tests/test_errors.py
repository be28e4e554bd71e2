"""Every code that the source can raise is explained in docs/errors.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLASSES = {
    "ChiasmError", "PictureError", "PromptError", "CheckpointError", "SourceError", "ConfigError", "CapabilityError",
    "DataError", "VideoError",
}  # fmt: skip


def codes_raised() -> dict[str, str]:
    """Each literal code and a file that raises it."""
    found: dict[str, str] = {}
    for path in (ROOT / "src" / "chiasm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES and node.args:
                given = node.args[0]
                for value in (given.body, given.orelse) if isinstance(given, ast.IfExp) else (given,):
                    if isinstance(value, ast.Constant):
                        found[value.value] = path.name
    return found


def test_every_code_is_explained() -> None:
    explained = set(re.findall(r"`([a-z0-9_]+)`", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")))
    raised = codes_raised()
    assert len(raised) > 50
    assert {code: file for code, file in raised.items() if code not in explained} == {}
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", code) for code in raised)
