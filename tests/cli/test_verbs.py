"""Every verb on tiny models: in this process for speed, with a few as subprocesses to see exit codes for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from chiasm.cli import main

Make = Callable[[str], Path]


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def chiasm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line, run in this process."""

    def run(*words: object) -> Done:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    Image.effect_noise((90, 60), 80).convert("RGB").save(path)
    return path


Run = Callable[..., Done]


def test_ask_streams_what_it_would_return(chiasm: Run, tiny_folder: Make, picture: Path) -> None:
    words = ("ask", tiny_folder("llava"), picture, "what is it?", "--max-new-tokens", 8)
    streamed, whole = chiasm(*words), chiasm(*words, "--json")
    assert streamed.code == whole.code == 0
    assert streamed.out.rstrip("\n") == whole.json()["text"].rstrip("\n")
    assert len(whole.json()["token_ids"]) == whole.json()["usage"]["completion_tokens"] <= 8
    assert whole.json()["finish_reason"] in ("length", "stop")


def test_ask_samples_by_seed_and_searches_with_beams(chiasm: Run, tiny_folder: Make, picture: Path) -> None:
    words = ("ask", tiny_folder("llava"), picture, "what?", "--max-new-tokens", 6, "--json")
    sampled = [chiasm(*words, "--temperature", 1, "--seed", seed).json()["token_ids"] for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert chiasm(*words, "--num-beams", 3).code == 0


def test_placeholders_typed_by_the_user_stay_text(chiasm: Run, tiny_folder: Make, picture: Path) -> None:
    plain = chiasm("inspect", tiny_folder("llava"), picture, "what is", "--json").json()
    typed = chiasm("inspect", tiny_folder("llava"), picture, "what is <image> <|im_end|>", "--json").json()
    assert len(typed["pictures"]) == len(plain["pictures"]) == 1
    picture_id = plain["token_ids"][plain["pictures"][0]["span"][0]]
    assert typed["token_ids"].count(picture_id) == plain["token_ids"].count(picture_id)
    assert chiasm("ask", tiny_folder("llava"), picture, "<image>", "--max-new-tokens", 2).code == 0


def test_caption(chiasm: Run, tiny_folder: Make, picture: Path) -> None:
    done = chiasm("caption", tiny_folder("llava_next"), picture, picture, "--max-new-tokens", 4, "--json")
    first, second = done.json()["captions"]
    assert first == second and done.code == 0


def test_classify(chiasm: Run, tiny_folder: Make, picture: Path) -> None:
    words = ("classify", tiny_folder("clip"), picture, "--labels", "cat,dog,tree")
    done = chiasm(*words, "--template", "a photo of a {}", "--template", "a {}", "--json")
    ranking = done.json()["results"][0]["labels"]
    assert sorted(row["label"] for row in ranking) == ["cat", "dog", "tree"]
    assert sum(row["probability"] for row in ranking) == pytest.approx(1, abs=1e-4)
    assert chiasm(*words).out.count("%") == 3


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_embed_writes_unit_vectors(chiasm: Run, tiny_folder: Make, picture: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "sub" / f"vectors{suffix}"
    done = chiasm("embed", tiny_folder("siglip"), "--image", picture, picture, "--out", out, "--json")
    assert done.code == 0
    import numpy

    vectors = torch.from_numpy(numpy.load(out)) if suffix == ".npy" else load_file(out)["images"]
    assert list(vectors.shape) == done.json()["shapes"]["images"]
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))


def test_embed_prints_texts(chiasm: Run, tiny_folder: Make) -> None:
    assert len(chiasm("embed", tiny_folder("clip"), "--text", "a cat", "a dog", "--json").json()["texts"]) == 2
    assert len(chiasm("embed", tiny_folder("clip"), "--text", "a cat").out.splitlines()) == 1


def test_inspect_shows_spans_and_saves_what_is_seen(
    chiasm: Run, tiny_folder: Make, picture: Path, tmp_path: Path
) -> None:
    words = ("inspect", tiny_folder("llava"), picture, "what is it?", "--save", tmp_path / "seen")
    seen = chiasm(*words, "--json").json()
    start, stop = seen["pictures"][0]["span"]
    assert stop - start == seen["pictures"][0]["tokens"] > 0
    assert len(set(seen["token_ids"][start:stop])) == 1
    assert seen["memory"]["total"] > 0 and 0 <= seen["pictures"][0]["cropped_share"] < 1
    with Image.open(seen["saved"][0]) as crop:
        assert list(crop.size) == seen["pictures"][0]["crop_size"]
    assert "what is it?" in chiasm(*words).out


def test_verify_proves_and_refuses(chiasm: Run, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    assert chiasm("new", "clip", "--tiny", "--out", folder).code == 0
    assert chiasm("verify", folder).code == 1  # nothing to compare with yet
    written = chiasm("verify", folder, "--write", "--json")
    assert written.code == 0 and written.json()["passed"] and len(written.json()["written"]) == 2
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][0, 0] += 0.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    done = chiasm("verify", folder, "--json")
    assert done.code == 1 and not done.json()["passed"] and "error[verify_failed]" in done.err


def test_models_lists_families(chiasm: Run) -> None:
    listing = chiasm("models", "--json").json()
    families = {family["name"]: family for family in listing["families"]}
    assert {"clip", "siglip", "llava", "llava_next"} <= set(families)
    assert "clip_vit_b_32" in families["clip"]["presets"] and "embed" in families["clip"]["capabilities"]
    assert "clip_vit_b_32" in chiasm("models").out


def test_new_like_a_folder(chiasm: Run, tiny_folder: Make, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "like"
    assert chiasm("new", "--like", tiny_folder("llava"), "--tiny", "--out", out, "--json").json()["parameters"] > 0
    assert chiasm("ask", out, picture, "what?", "--max-new-tokens", 2).code == 0


def test_convert_reads_a_pickle(chiasm: Run, tmp_path: Path) -> None:
    torch.save({"weight": torch.eye(3), "epoch": 4}, tmp_path / "old.pt")
    done = chiasm("convert", tmp_path / "old.pt", "--out", tmp_path / "new", "--json")
    assert done.code == 0 and done.json()["tensors"] == 1 and "epoch" in done.err
    assert torch.equal(load_file(tmp_path / "new" / "model.safetensors")["weight"], torch.eye(3))


class Harmful:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_convert_runs_no_code(chiasm: Run, tmp_path: Path) -> None:
    torch.save({"weight": Harmful(tmp_path / "harm")}, tmp_path / "bad.pt")
    done = chiasm("convert", tmp_path / "bad.pt", "--out", tmp_path / "new", "--json")
    assert (done.code, done.json()["error"]["code"]) == (1, "pickle_unsafe")
    assert not (tmp_path / "harm").exists() and not (tmp_path / "new").exists()


def test_doctor(chiasm: Run) -> None:
    done = chiasm("doctor", "--json")
    assert done.code == 0 and done.json()["ok"] and done.json()["torch"]["version"]
    assert "hub:" in chiasm("doctor").out


def test_train_lists_recipes_and_refuses_settings(chiasm: Run, tmp_path: Path) -> None:
    names = {row["name"] for row in chiasm("train", "--list", "--json").json()}
    assert {"nano", "nano_dual"} <= names
    out = tmp_path / "run"
    for setting, code in (("tune.stps=3", "setting_unknown"), ("seed=abc", "setting_type")):
        done = chiasm("train", "nano", "--out", out, "--set", setting, "--json")
        assert (done.code, done.json()["error"]["code"]) == (1, code)
    assert chiasm("train", "nonsense", "--out", out, "--json").json()["error"]["code"] == "recipe_unknown"
    assert not out.exists()


def test_exit_codes_of_the_program(tiny_folder: Make, picture: Path) -> None:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "chiasm", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    good = run("ask", tiny_folder("llava"), picture, "what?", "--max-new-tokens", 3, "--json")
    assert good.returncode == 0 and json.loads(good.stdout)["usage"]["completion_tokens"] <= 3
    bad = run("ask", tiny_folder("llava"), "missing.png", "what?", "--json")
    assert bad.returncode == 1 and json.loads(bad.stdout)["error"]["code"] == "picture_missing"
    assert bad.stderr.startswith("error[picture_missing]") and len(bad.stderr.splitlines()) == 1
    wrong = run("frobnicate")
    assert (
        wrong.returncode == 2
        and wrong.stderr.startswith("error[usage]: no verb 'frobnicate'")
        and "--help" in wrong.stderr
    )
    assert run().returncode == 0 and "ask" in run("--help").stdout
    assert run("--version").stdout.strip()


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m chiasm doctor --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, chiasm: Run) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("chiasm.cli.doctor._print", stop)
    done = chiasm("doctor")
    assert done.code == 130 and done.err.splitlines() == ["error[interrupted]: stopped by the keyboard"]
