"""`ground`, `locate`, `--image-tokens`, odd pictures and video files on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import chiasm
from chiasm.cli import main
from chiasm.core.replies import Reply, Usage


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    Image.new("RGB", (200, 100), (250, 250, 250)).save(path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def answering(monkeypatch, text: str) -> None:
    """Replies as a trained model would write them."""
    from chiasm.models.model import Model

    def generate(self: Any, conversations: Any, **_: Any) -> list[Reply]:
        self.processor(conversations)
        return [Reply(text, (1, 2), (-0.1, -0.3), "stop", Usage(1, 2))]

    monkeypatch.setattr(Model, "generate", generate)


@pytest.mark.parametrize(
    ("family", "text", "box", "point"),
    [
        ("qwen2_vl", "<|box_start|>(100,200),(300,400)<|box_end|>", [20, 20, 60, 40], None),
        ("internvl", "the car<box>[[100,200,300,400]]</box>", [20, 20, 60, 40], None),
        ("cogvlm", "[[100,200,300,400]]", [20, 20, 60, 40], None),
        ("molmo", ' <point x="10.0" y="50.0" alt="car">car</point>', None, [20, 50]),
    ],
)
def test_places_are_found_and_drawn(run, tiny_folder, picture, tmp_path, monkeypatch, family, text, box, point) -> None:
    answering(monkeypatch, text)
    out = tmp_path / "found.png"
    code, printed, _ = run("ground", tiny_folder(family), picture, "the car", "--save", out, "--json")
    document = json.loads(printed)
    (region,) = document["regions"]
    assert code == 0 and document["size"] == [200, 100] and not document["unread"]
    assert (region["box"], region["point"]) == (
        None if box is None else pytest.approx(box),
        None if point is None else pytest.approx(point),
    )
    assert region["score"] == pytest.approx(0.8187, abs=1e-3)
    drawn = Image.open(out)
    assert drawn.size == (200, 100)
    spot = point or (box[0], (box[1] + box[3]) // 2)
    assert drawn.getpixel((int(spot[0]), int(spot[1]))) == (230, 30, 90)


def test_pixels_of_the_resized_picture_come_back(run, tiny_folder, picture, monkeypatch) -> None:
    model = chiasm.load(tiny_folder("qwen2_5_vl"))
    width, height = model.processor.image_processor.plan((200, 100)).crops[0].size
    answering(monkeypatch, f'[{{"bbox_2d": [0, 0, {width // 2}, {height}], "label": "car"}}, {{"bbox_2d": [1, 2')
    code, printed, _ = run("ground", tiny_folder("qwen2_5_vl"), picture, "the car", "--json")
    document = json.loads(printed)
    assert code == 0 and document["regions"][0]["box"] == pytest.approx([0, 0, 100, 100], abs=1.0)
    assert len(document["unread"]) == 1


def test_what_is_clipped_or_not_understood_is_said(run, tiny_folder, picture, monkeypatch) -> None:
    answering(monkeypatch, "[[500,500,1500,900]] and [1,2,3]")
    code, printed, told = run("ground", tiny_folder("cogvlm"), picture, "the car")
    assert code == 0 and "box 100, 50, 200, 90" in printed
    assert "1 of 1 reached beyond the picture" in told and "not understood: [1,2,3]" in told
    answering(monkeypatch, "I see no car.")
    assert "nothing found" in run("ground", tiny_folder("cogvlm"), picture, "the car")[1]


def test_a_random_model_grounds_without_failing(run, tiny_folder, picture) -> None:
    for family in ("qwen2_5_vl", "molmo"):
        assert run("ground", tiny_folder(family), picture, "the car", "--json")[0] == 0
    code, _, told = run("ground", tiny_folder("qwen2_vl"), picture, "  ")
    assert code == 1 and "error[phrase_empty]" in told
    code, _, told = run("ground", tiny_folder("kimi_vl"), picture, "the car")
    assert code == 1 and "error[capability_missing]" in told and "molmo" in told


def test_image_tokens_is_a_budget(run, tiny_folder, picture) -> None:
    folder = tiny_folder("qwen2_vl")
    full = json.loads(run("inspect", folder, picture, "what?", "--json")[1])["pictures"][0]["tokens"]
    small = json.loads(run("inspect", folder, picture, "what?", "--image-tokens", 9, "--json")[1])["pictures"][0]
    assert small["tokens"] <= 9 < full
    reply = json.loads(run("ask", folder, picture, "what?", "--image-tokens", 9, "--max-new-tokens", 2, "--json")[1])
    assert reply["usage"]["image_tokens"] <= 9
    code, _, told = run("ask", tiny_folder("internvl"), picture, "what?", "--image-tokens", 1)
    assert code == 1 and "error[image_tokens_too_few]" in told and "needs at least 4" in told


def test_a_video_file_is_watched(run, tiny_folder, tmp_path) -> None:
    from tests.processing.test_video import film

    path = film(tmp_path / "film.mp4")
    code, printed, _ = run("ask", tiny_folder("qwen2_5_vl"), path, "what happens?", "--max-new-tokens", 2, "--json")
    assert code == 0 and json.loads(printed)["usage"]["image_tokens"] > 0
    code, _, told = run("ask", tiny_folder("llava"), path, "what happens?")
    assert code == 1 and "error[video_unsupported]" in told


def test_moments_are_found_clipped_and_reported(run, tiny_folder, tmp_path, monkeypatch) -> None:
    from tests.processing.test_video import film

    path = film(tmp_path / "film.mp4")
    answering(monkeypatch, "First 0.5 to 1.0 seconds, then 1.5 - 90 s, and at 7 s.")
    code, printed, _ = run("locate", tiny_folder("qwen2_5_vl"), path, "the dog jumps", "--json")
    document = json.loads(printed)
    assert code == 0 and document["clipped"] == 1 and document["unread"] == ["7 s"]
    first, second = document["spans"]
    assert (first["start"], first["end"], first["phrase"]) == (0.5, 1.0, "the dog jumps")
    assert second["end"] == document["duration"] < 90
    code, printed, told = run("locate", tiny_folder("qwen2_5_vl"), path, "the dog jumps")
    assert code == 0 and "0.5 to 1.0 s" in printed and "not understood: 7 s" in told and "1 of 2 reached" in told
    for words, reason in ((("  ",), "phrase_empty"), (("the dog",), "capability_missing")):
        model = tiny_folder("qwen2_5_vl" if reason == "phrase_empty" else "molmo")
        code, _, told = run("locate", model, path, *words)
        assert code == 1 and f"error[{reason}]" in told
    code, _, told = run("locate", tiny_folder("qwen2_5_vl"), tmp_path / "none.mp4", "the dog")
    assert code == 1 and "error[video_missing]" in told


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "internvl", "kimi_vl", "molmo", "cogvlm", "xcomposer"])
def test_a_strip_of_a_picture_is_taken_or_refused_by_the_family_s_rule(run, tiny_folder, tmp_path, family) -> None:
    for size in ((1, 5000), (5000, 1), (1, 1)):
        path = tmp_path / f"{size[0]}.png"
        Image.new("RGB", size, (9, 9, 9)).save(path)
        code, _, told = run("ask", tiny_folder(family), path, "what?", "--max-new-tokens", 1, "--json")
        refused = code == 1 and ("error[picture_too_thin]" in told or "error[context_exceeded]" in told)
        assert code == 0 or refused and size != (1, 1), told


def test_too_much_for_the_context_says_what_costs_what(run, tiny_folder, tmp_path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (1500, 1200)).save(path)
    code, _, told = run("ask", tiny_folder("kimi_vl"), path, "what? " * 4000, "--max-new-tokens", 1)
    assert code == 1 and "error[context_exceeded]" in told and "visual" in told
