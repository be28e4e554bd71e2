"""Shared by every test: no network, few threads, one place for tiny checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before torch or huggingface_hub is imported: tests run two at a time and never touch the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a family's name to a saved random miniature of it, made once a session."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            import chiasm

            folder = tmp_path_factory.mktemp("tiny") / family
            chiasm.new(family, tiny=True).save(folder)
            made[family] = folder
        return made[family]

    return make
