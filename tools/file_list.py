"""Keeps the list of files in the README true: ``python tools/file_list.py`` makes it from the modules' first lines.

`tests/test_readme.py` fails when the list and the tree disagree.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- files: made by tools/file_list.py -->", "<!-- end of files -->"


def first_sentence(path: Path) -> str:
    """What a module says of itself, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z0-9)`\"])\.\s+(?=[A-Z`\"])", paragraph)[0].rstrip(".").replace("|", "\\|")


def listing() -> str:
    """The list, one table a folder, folders in the order of `design`: core first, then what stands on it."""
    package = ROOT / "src" / "chiasm"
    lines = []
    for folder in [package, *sorted(path.parent for path in package.rglob("__init__.py") if path.parent != package)]:
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines += [f"**`{folder.relative_to(ROOT / 'src').as_posix()}/`** {first_sentence(folder / '__init__.py')}", ""]
        if files:
            lines += ["| file | what it is |", "|---|---|"]
            lines += [f"| `{path.name}` | {first_sentence(path)} |" for path in files]
            lines.append("")
    return "\n".join(lines).strip()


def updated(readme: str) -> str:
    """The README with its list made anew."""
    before, rest = readme.split(START)
    return f"{before}{START}\n{listing()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text("utf-8")), "utf-8")
