"""Shared by every test: no network, few threads, one place for tiny checkpoints."""

from __future__ import annotations

import os
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before torch or huggingface_hub is imported: tests run two at a time and never touch the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

SALT = os.environ.get("TEST_SEED", "")  # other random numbers for all tests: which of them hold by chance?


def _seed(name: str) -> None:
    seed = zlib.crc32(f"{SALT}{name}".encode())
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """A fixture's random numbers depend on its name alone, not on which tests ran before in its process."""
    _seed(f"{fixturedef.baseid}::{fixturedef.argname}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """A test's likewise."""
    _seed(item.nodeid)


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
