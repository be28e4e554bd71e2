"""What the tests of the index share: a model that embeds by colour, pictures, and the command line in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import PromptError
from chiasm.processing.pictures import read_picture


class Colours:
    """A picture's vector is its mean colour, a text's is spelled in the text; pictures of one pixel are refused."""

    def embed_images(self, images: Any) -> np.ndarray:
        pictures = [read_picture(image) for image in images]
        if any(picture.size == (1, 1) for picture in pictures):
            raise PromptError("picture_unreadable", "too small to embed")
        return self._normal([np.asarray(picture).reshape(-1, 3).mean(0) for picture in pictures])

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._normal([[len(text), text.count("e"), 1] for text in texts])

    def _normal(self, rows: Any) -> np.ndarray:
        vectors = np.asarray(rows, np.float32) + 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def colours() -> Colours:
    return Colours()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 40 pictures of one colour each, some of them deeper."""
    rng = np.random.default_rng(3)
    for number in range(40):
        folder = tmp_path / "pictures" / ("deep" if number % 3 == 0 else ".")
        folder.mkdir(parents=True, exist_ok=True)
        colour = tuple(int(part) for part in rng.integers(0, 256, 3))
        Image.new("RGB", (12, 9), colour).save(folder / f"{number:02}.png")
    return tmp_path / "pictures"


@pytest.fixture
def chiasm_process() -> Callable[..., subprocess.Popen[str]]:
    """A function that starts the command line in a process of its own; its output is read through pipes."""

    def start(*words: object, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        command = [*before, sys.executable, "-m", "chiasm", *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    return start
