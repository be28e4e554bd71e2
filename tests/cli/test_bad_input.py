"""Bad input: one line with a stable code, exit 1 (2 for wrong usage), nothing half done. Odd pictures must work."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from chiasm.cli import main

Make = Callable[[str], Path]
Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must fail with an exit code; returns the error's code, after checking how it was told."""

    def run(*words: object, code: int = 1) -> str:
        given = main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert given == code, f"exit {given}: {err}"
        error = json.loads(out)["error"]
        lines = err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith(f"error[{error['code']}]: "), err
        assert "Traceback" not in err
        return str(error["code"])

    return run


@pytest.fixture
def works(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*words: object) -> Any:
        code = main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)

    return run


def png(width: int, height: int) -> bytes:
    """A small file that declares a picture of any size (a decompression bomb when it is large)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def noise(mode: str = "RGB") -> Image.Image:
    return Image.effect_noise((90, 60), 80).convert(mode)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


BAD_PICTURES = {
    "cut": (lambda: encoded(noise(), "PNG")[:3000], "picture_truncated"),
    "cut_jpeg": (lambda: encoded(noise(), "JPEG")[:800], "picture_truncated"),
    "bomb": (lambda: png(60000, 60000), "picture_too_large"),
    "text": (lambda: b"hello, I am no picture", "picture_unknown_format"),
    "empty": (lambda: b"", "picture_empty"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "picture_unknown_format"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures(fails: Fails, tiny_folder: Make, tmp_path: Path, name: str) -> None:
    make, expected = BAD_PICTURES[name]
    path = tmp_path / f"{name}.png"
    path.write_bytes(make())
    assert fails("ask", tiny_folder("llava"), path, "what?") == expected
    assert fails("classify", tiny_folder("clip"), path, "--labels", "a,b") == expected
    out = tmp_path / "vectors.npy"
    assert fails("embed", tiny_folder("clip"), "--image", path, "--out", out) == expected
    assert not out.exists()


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "1", "I;16", "CMYK", "exif"])
def test_odd_pictures_work(works: Callable[..., Any], tiny_folder: Make, tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("odd.jpg" if mode in ("CMYK", "exif") else "odd.png")
    if mode == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn: 90×60 is seen as 60×90
        noise().save(path, exif=exif)
    else:
        noise(mode if mode != "I;16" else "I").convert(mode).save(path)
    seen = works("inspect", tiny_folder("llava"), path, "what?")
    assert seen["pictures"][0]["size"] == ([60, 90] if mode == "exif" else [90, 60])
    assert works("ask", tiny_folder("llava"), path, "what?", "--max-new-tokens", 2)["usage"]["completion_tokens"] <= 2


@pytest.fixture
def copy(tiny_folder: Make, tmp_path: Path) -> Path:
    """A copy of a tiny CLIP to damage."""
    return Path(shutil.copytree(tiny_folder("clip"), tmp_path / "clip"))


def test_missing_extra_and_wrong_tensors(fails: Fails, copy: Path) -> None:
    file = copy / "model.safetensors"
    whole = load_file(file)
    words = ("embed", copy, "--text", "a")
    name = "visual_projection.weight"
    damages = {
        "tensor_missing": {key: value for key, value in whole.items() if key != name},
        "tensor_unexpected": {**whole, "stranger": torch.ones(1)},
        "tensor_shape": {**whole, name: torch.ones(2, 3)},
        "weights_nonfinite": {**whole, name: torch.full_like(whole[name], float("nan"))},
    }
    for expected, tensors in damages.items():
        save_file(tensors, file, metadata={"format": "pt"})
        assert fails(*words) == expected
    file.write_bytes(file.read_bytes()[:-100])
    assert fails(*words) == "safetensors_damaged"
    file.unlink()
    assert fails(*words) == "weights_missing"


def test_configs_without_a_known_model_type(fails: Fails, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    for change, expected in (
        ({"model_type": "mystery"}, "model_type_unknown"),
        ({"model_type": None}, "model_type_missing"),
    ):
        changed = {key: value for key, value in {**config, **change}.items() if value is not None}
        (copy / "config.json").write_text(json.dumps(changed))
        assert fails("embed", copy, "--text", "a") == expected
    (copy / "config.json").write_text("{")
    assert fails("embed", copy, "--text", "a") == "json_malformed"


def test_code_named_in_a_checkpoint_is_not_run(works: Callable[..., Any], copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "harm.Model"}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "harm.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")
    works("embed", copy, "--text", "a")
    assert not (tmp_path / "harm").exists()


def test_pickles_are_refused(fails: Fails, copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert fails("embed", copy, "--text", "a") == "pickle_refused"


def test_sources(fails: Fails, tmp_path: Path) -> None:
    ask = ("picture.png", "what?")
    assert fails("ask", "someone/some-model", *ask, "--offline") == "offline"
    assert fails("ask", "nowhere", *ask) == "source_unknown"
    assert fails("ask", tmp_path / "nowhere", *ask) == "folder_missing"
    assert fails("ask", tmp_path, *ask) == "config_missing"


def test_conversations(fails: Fails, tiny_folder: Make, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise().save(path)
    model = tiny_folder("llava")
    assert fails("ask", model, path, "") == "question_empty"
    assert fails("ask", model, path, " \n") == "question_empty"
    assert fails("ask", model, tmp_path / "none.png", "what?") == "picture_missing"
    assert fails("ask", model, *[path] * 300, "what?") in ("context_exceeded", "too_many_images")
    assert fails("ask", tiny_folder("clip"), path, "what?") == "capability_missing"
    assert fails("match", tiny_folder("clip"), path, "--text", "a") == "capability_missing"
    assert fails("classify", model, path, "--labels", "a,b") == "capability_missing"
    assert fails("embed", tiny_folder("clip"), "--text", "word " * 200) == "text_too_long"


def test_indexes(fails: Fails, tiny_folder: Make, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    assert fails("index", "add", tmp_path / "index", pictures, "--model", tiny_folder("clip")) == "folder_no_pictures"
    Image.new("RGB", (8, 8)).save(pictures / "a.png")
    assert fails("index", "add", tmp_path / "index", pictures, code=2) == "usage"  # which model is not said
    assert fails("index", "add", tmp_path, pictures, "--model", tiny_folder("clip")) == "index_exists"
    assert fails("index", "add", tmp_path / "index", pictures, "--model", tiny_folder("llava")) == "capability_missing"
    assert fails("index", "info", tmp_path / "index") == "index_missing"
    assert fails("index", "remove", tmp_path / "index", "--gone") == "index_missing"
    assert fails("search", tmp_path / "index", "a cat") == "index_missing"
    assert fails("search", tmp_path / "index", "a cat", "--sheet", "found.pdf") == "sheet_format"
    assert fails("search", tmp_path / "index", "a cat", "--limit", 1001, "--sheet", "a.png") == "sheet_too_large"
    assert not (tmp_path / "index").exists()


def test_new(fails: Fails, tmp_path: Path) -> None:
    assert fails("new", "nonsense", "--tiny", "--out", tmp_path / "x") == "family_unknown"
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("mine")
    assert fails("new", "clip", "--tiny", "--out", tmp_path, code=2) == "usage"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"],
        ["ask"],
        ["ask", "model"],
        ["ask", "model", "cat.png"],
        ["ask", "model", "cat.png", "what?", "--nonsense"],
        ["ask", "model", "cat.png", "what?", "--max-new-tokens", "many"],
        ["ask", "model", "cat.png", "what?", "--max-new-tokens", "0"],
        ["ask", "model", "cat.png", "what?", "--temperature", "-1"],
        ["ask", "model", "cat.png", "what?", "--top-p", "0"],
        ["ask", "model", "cat.png", "what?", "--num-beams", "2", "--temperature", "1"],
        ["caption", "model"],
        ["classify", "model", "cat.png"],
        ["classify", "model", "cat.png", "--labels", "cat"],
        ["classify", "model", "cat.png", "--labels", "cat,cat"],
        ["classify", "model", "cat.png", "--labels", "cat,dog", "--template", "a photo"],
        ["embed", "model"],
        ["embed", "model", "--text", "a", "--out", "vectors.txt"],
        ["match", "model", "a.png", "b.png", "--text", "one"],
        ["index", "add", "index"],
        ["index", "remove", "index"],
        ["search", "index"],
        ["search", "index", "a cat", "--image", "cat.png"],
        ["search", "index", "a cat", "--limit", "0"],
        ["new", "--tiny", "--out", "folder"],
        ["new", "clip", "--out", "folder"],
        ["convert", "file.pt"],
        ["train"],
        ["train", "nano", "--out", "run", "--set", "steps"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_before_anything_is_loaded(fails: Fails, words: list[str]) -> None:
    assert fails(*words, code=2) == "usage"
