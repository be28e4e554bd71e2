"""`match`, `embed` and `ground` of families that fuse, bind and judge, from the command line."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import chiasm
from chiasm.cli import main
from chiasm.core.errors import CapabilityError, DataError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def wav(path: Path, pitch: float) -> Path:
    samples = (9000 * np.sin(2 * np.pi * pitch * np.arange(22050) / 22050)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes(samples.tobytes())
    return path


def call(capsys: Any, *words: object) -> tuple[int, dict[str, Any]]:
    code = main([*(str(word) for word in words), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("family", ["blip", "albef", "vilt"])
def test_a_heat_map_is_saved_and_long_texts_are_cut_only_when_asked(
    family: str, picture: Path, tmp_path: Path, tiny_folder: Any, capsys: Any
) -> None:
    folder, out = tiny_folder(family), tmp_path / "heat.png"
    code, told = call(capsys, "ground", folder, picture, "a red cat", "--save", out)
    assert code == 0 and len(told["regions"]) == 1 and told["regions"][0]["point"] is not None
    saved, plain = (np.asarray(Image.open(path).convert("RGB"), dtype=int) for path in (out, picture))
    assert saved.shape == plain.shape
    if family != "albef":  # whose random weights owe nothing to any patch
        assert (np.abs(saved - plain).max(-1) > 8).mean() > 0.2, "the box's lines alone"
    long = "a cat " * 100
    code, told = call(capsys, "match", folder, picture, "--text", long)
    assert code == 1 and told["error"]["code"] == "text_too_long" and "--truncate" in told["error"]["hint"]
    code, told = call(capsys, "match", folder, picture, "--text", long, "--truncate")
    assert code == 0 and 0 < told["matches"][0]["probability"] < 1


def test_sounds_find_pictures(picture: Path, tmp_path: Path, tiny_folder: Any, capsys: Any) -> None:
    folder = tiny_folder("imagebind")
    low, high = wav(tmp_path / "low.wav", 300.0), wav(tmp_path / "high.wav", 3000.0)
    code, told = call(capsys, "embed", folder, "--image", picture, "--sound", low, high)
    assert code == 0 and told["shapes"] == {"images": [1, 16], "sounds": [2, 16]}
    vectors = np.asarray(told["sounds"])
    np.testing.assert_allclose((vectors**2).sum(1), 1, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4
    model = chiasm.load(str(folder))
    np.testing.assert_allclose(model.embed_sounds([str(low), str(high)]).numpy(), vectors, atol=1e-5)
    loudest = model.embed_images(str(picture)) @ model.embed_sounds([low.read_bytes(), high.read_bytes()]).T
    assert loudest.shape == (1, 2)
    with pytest.raises(DataError, match="unknown") as caught:
        model.embed_sounds(np.zeros(16000))
    assert caught.value.code == "audio_rate"
    for words, problem in (
        (("--sound", tmp_path / "none.wav"), "audio_missing"),
        (("--sound", picture), "audio_unreadable"),
    ):
        code, told = call(capsys, "embed", folder, *words)
        assert code == 1 and told["error"]["code"] == problem
    code, told = call(capsys, "embed", tiny_folder("clip"), "--sound", low)
    assert code == 1 and told["error"]["code"] == "modality_missing"
    with pytest.raises(CapabilityError):
        chiasm.load(str(tiny_folder("vilt"))).embed_sounds(str(low))


@pytest.mark.parametrize("family", ["clip", "align", "vse", "coca", "albef", "blip"])
def test_embeddings_of_long_texts_are_cut_only_when_asked(family: str, tiny_folder: Any, capsys: Any) -> None:
    words = ("embed", tiny_folder(family), "--text", "a cat " * 100)
    code, told = call(capsys, *words)
    assert code == 1 and told["error"]["code"] == "text_too_long"
    assert call(capsys, *words, "--truncate")[0] == 0


@pytest.mark.parametrize("recipe", ["clip_pico", "albef_pico", "blip_pico", "coca_pico", "vilt_pico", "vse_pico"])
def test_a_batch_of_one_has_nothing_to_be_told_from(recipe: str, tmp_path: Path, capsys: Any) -> None:
    words = ("train", recipe, "--set", "batch_size=1", "--set", "steps=1", "--out", tmp_path / "run")
    queue = ("--set", "objective.queue_size=8") if recipe in ("albef_pico", "blip_pico") else ()
    code, told = call(capsys, *words, *queue)
    assert code == 1 and told["error"]["code"] == "batch_of_one", told


def test_a_queue_longer_than_the_data_is_refused(tmp_path: Path, capsys: Any) -> None:
    words = ("train", "albef_pico", "--set", "data=scenes:train:captions?size=96&count=100", "--out", tmp_path / "run")
    code, told = call(capsys, *words)
    assert code == 1 and told["error"]["code"] == "queue_too_large" and "1024" in told["error"]["message"]
