"""The bundled nano-dual: what it holds, and that it sees what is in a picture."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image, ImageDraw

import chiasm
from chiasm.weights.bundled import bundled_folders


@pytest.fixture(scope="module")
def model() -> chiasm.Model:
    return chiasm.load("nano-dual")


def test_the_trained_part_is_small_and_holds_no_tower() -> None:
    folder = bundled_folders()["nano-dual"]
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert names and not [name for name in names if name.startswith(("vision.", "language."))]


def test_embeddings_are_unit_vectors_and_texts_of_one_thing_are_near(model: chiasm.Model) -> None:
    texts = model.embed_texts(["a cat", "a kitten", "a fire engine"])
    assert texts.shape == (3, 384) and torch.allclose(texts.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert texts[0] @ texts[1] > texts[0] @ texts[2] + 0.2


def test_it_sees(model: chiasm.Model) -> None:
    clock = Image.new("RGB", (300, 300), "white")
    pen = ImageDraw.Draw(clock)
    pen.ellipse((20, 20, 280, 280), outline="black", width=12, fill="#fffdf0")
    for hour in range(12):
        x, y = (150 + 105 * f(hour * math.pi / 6) for f in (math.sin, math.cos))
        pen.ellipse((x - 7, y - 7, x + 7, y + 7), fill="black")
    pen.line((150, 150, 150, 70), fill="black", width=10)
    pen.line((150, 150, 205, 180), fill="black", width=10)
    labels = ["clock", "cow", "banana", "violin", "castle", "shoe"]
    assert model.classify(clock, labels)[0][0][0] == "clock"
