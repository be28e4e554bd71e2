"""What importing costs and what it must not pull in."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "chiasm"
HEAVY = ("torch", "numpy", "transformers", "torchvision", "PIL", "tokenizers", "huggingface_hub", "pydantic", "gguf")


def seconds(*words: str) -> float:
    """Best of five processor times of a python process, which a busy machine stretches less than the clock's."""
    best = float("inf")
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    return best


@pytest.mark.parametrize(
    ("words", "limit"), [(("-c", "import chiasm"), 0.15), (("-m", "chiasm", "--help"), 0.5)], ids=["import", "help"]
)
def test_start_is_quick(words: tuple[str, ...], limit: float) -> None:
    assert seconds(*words) - seconds("-c", "pass") <= limit


@pytest.mark.parametrize("statement", ["import chiasm", "import chiasm.cli.app as a; a.build_app()"])
def test_start_imports_nothing_heavy(statement: str) -> None:
    code = f"{statement}; import sys; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_recipes_are_listed_without_torch() -> None:
    code = "import sys; from chiasm.recipes.run import recipes; assert recipes(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_whole_package_imports_without_transformers_and_torchvision() -> None:
    code = """
import importlib, pkgutil, sys
for name in ("transformers", "torchvision", "timm", "open_clip"):
    sys.modules[name] = None
import chiasm
for module in pkgutil.walk_packages(chiasm.__path__, "chiasm."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_resolve() -> None:
    import chiasm

    for name in chiasm.__all__:
        assert getattr(chiasm, name) is not None
    assert chiasm.__version__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = chiasm.nonsense


def imported(path: Path) -> set[str]:
    """Every module name that a file imports, wherever the statement stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_layers_are_not_distributed() -> None:
    # import-linter sees external packages only by their first name, so torch.distributed is checked here.
    for folder in ("nn", "vision", "language", "connectors", "fusion", "models"):
        for path in (SOURCE / folder).rglob("*.py"):
            assert not any(name.startswith("torch.distributed") for name in imported(path)), path


def test_core_imports_no_torch_at_module_level() -> None:
    code = "import importlib, pkgutil, sys, chiasm.core as c\n"
    code += "for m in pkgutil.iter_modules(c.__path__, 'chiasm.core.'): importlib.import_module(m.name)\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
