"""`chiasm curate`: decisions, bad rows, kills, Ray, formats, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import chiasm
from chiasm.cli import main
from chiasm.data.open import open_dataset

LEVEL = ("--threshold", "0.02")  # about half of what random weights say
WORDS = ("a red cat", "two dogs and a yellow ball", "the blue boat", "there are birds")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 pairs and two models; row 5 is no picture, row 9 has a caption that no tower takes."""
    folder = tmp_path_factory.mktemp("curate")
    data = folder / "data"
    data.mkdir()
    for number in range(26):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / f"{number:02d}.png")
        (data / f"{number:02d}.txt").write_text(f"{WORDS[number % 4]} {number}\n")
    (data / "05.png").write_bytes(b"no picture")
    (data / "09.txt").write_text("a cat " * 60)
    for family in ("blip", "clip"):
        chiasm.new(family).save(folder / family)
    return folder


def words(folder: Path, out: Path, *more: str, judge: str = "clip") -> list[str]:
    return [
        "curate", str(folder / "data"), "--captioner", str(folder / "blip"), "--filter", str(folder / judge), "--out",
        str(out), "--max-new-tokens", "5", *more,
    ]  # fmt: skip


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "curation" / "decisions.jsonl").read_text("utf-8").splitlines()]


def tree(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """What an undisturbed run leaves."""
    assert main(words(folder, folder / "plain", *LEVEL)) == 0
    return folder / "plain"


def test_every_decision_follows_from_its_scores_and_the_data_from_the_decisions(folder: Path, plain: Path) -> None:
    decisions = lines(plain)
    assert [line["row"] for line in decisions] == list(range(26))
    kept, outcomes = [], set()
    for line in decisions:
        for caption in line.get("captions", ()):
            assert caption["kept"] == (caption["score"] >= caption["threshold"])
            kept += [(line["key"], caption["origin"], caption["text"])] if caption["kept"] else []
        origins = {caption["origin"] for caption in line.get("captions", ()) if caption["kept"]}
        expected = "failed" if "code" in line else "both" if len(origins) == 2 else next(iter(origins), "neither")
        assert line["decision"] == expected
        outcomes.add(expected)
    assert outcomes == {"original", "synthetic", "both", "neither", "failed"}
    assert {line["row"]: line["code"] for line in decisions if "code" in line} == {
        5: "picture_unknown_format", 9: "text_too_long",
    }  # fmt: skip
    rows = list(open_dataset(plain))
    assert [(row.annotations["key"], row.annotations["origin"], row.captions[0]) for row in rows] == kept
    assert main(["data", "check", str(plain)]) == 0
    summary = json.loads((plain / "curation" / "settings.json").read_text())
    assert summary["kept"] == len(kept) and sum(summary["decisions"].values()) == 26


def test_scores_are_the_filter_s_own(folder: Path, plain: Path) -> None:
    model = chiasm.load(str(folder / "clip"))
    first = lines(plain)[0]
    texts = [caption["text"] for caption in first["captions"]]
    cosines = model.embed_images(str(folder / "data" / "00.png")) @ model.embed_texts(texts).T
    np.testing.assert_allclose(cosines[0], [caption["score"] for caption in first["captions"]], atol=2e-6)


def test_without_a_threshold_wrong_pairs_find_one(folder: Path, plain: Path, tmp_path: Path) -> None:
    assert main(words(folder, tmp_path / "out")) == 0
    model, wrong = chiasm.load(str(folder / "clip")), []
    good = [line for line in lines(plain) if "code" not in line]
    for chunk in (good[:8], good[8:16], good[16:]):
        pictures = model.embed_images([str(folder / "data" / line["key"]) for line in chunk])
        texts = model.embed_texts([line["captions"][0]["text"] for line in chunk])
        wrong += [float(pictures[at] @ texts[(at + 1) % len(chunk)]) for at in range(len(chunk))]
    level = json.loads((tmp_path / "out" / "curation" / "settings.json").read_text())["thresholds"]["original"]
    assert level == pytest.approx(sorted(wrong)[int(np.ceil(0.95 * (len(wrong) - 1)))], abs=2e-6)


def test_a_bad_picture_changes_nothing_for_its_neighbours(folder: Path, plain: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in (folder / "data").iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (50, 40), "red").save(data / "05.png")
    (data / "09.txt").write_text("a cat")
    call = words(folder, tmp_path / "good", *LEVEL)
    assert main([call[0], str(data), *call[2:]]) == 0
    for bad, good in zip(lines(plain), lines(tmp_path / "good"), strict=True):
        if bad["row"] not in (5, 9):
            for one, other in zip(bad["captions"], good["captions"], strict=True):
                assert one["text"] == other["text"] and abs(one["score"] - other["score"]) <= 2e-6
    assert "captions" in lines(tmp_path / "good")[5]


def test_killed_anywhere_it_goes_on_to_the_same_bytes(folder: Path, plain: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "out", tmp_path / ".out.curating" / "journal.jsonl"
    command = [sys.executable, "-m", "chiasm", *words(folder, out, *LEVEL)]
    for kill in range(2):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        before = journal.stat().st_size if journal.exists() else 0
        while child.poll() is None and (journal.stat().st_size if journal.exists() else 0) == before:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        if kill == 1:  # a line that was being written
            with journal.open("ab") as file:
                file.write(b'{"request": "captions 3", "outp')
    assert main(command[3:]) == 0
    assert tree(out) == tree(plain)
    assert not (tmp_path / ".out.curating").exists()


def test_every_format_is_read_again(folder: Path, plain: Path, tmp_path: Path) -> None:
    said = sorted(row.captions[0] for row in open_dataset(plain))
    for name in ("csv", "webdataset", "folder"):
        assert main(words(folder, tmp_path / name, "--format", name, *LEVEL)) == 0
        rows = list(open_dataset(tmp_path / name))
        assert sorted(text for row in rows for text in row.captions) == said
        assert main(["data", "check", str(tmp_path / name)]) == 0
        assert lines(tmp_path / name) == lines(plain)


def test_pictures_without_a_caption_are_given_one(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(4):
        (data / f"{number}.png").write_bytes((folder / "data" / f"{number:02d}.png").read_bytes())
    (data / "0.txt").write_text("a red cat")
    call = words(folder, tmp_path / "out", "--threshold", "-1")
    assert main([call[0], str(data), *call[2:]]) == 0
    origins = [[caption["origin"] for caption in line["captions"]] for line in lines(tmp_path / "out")]
    assert origins == [["original", "synthetic"], ["synthetic"], ["synthetic"], ["synthetic"]]
    assert all(caption["text"] for line in lines(tmp_path / "out") for caption in line["captions"])


def test_matching_heads_judge_and_thresholds_are_said(folder: Path, tmp_path: Path, capsys: Any) -> None:
    call = words(folder, tmp_path / "out", "--json", "--num-beams", "2", "--truncate", judge="blip")
    assert main(call) == 1  # random weights: nothing reaches one half
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "curation_empty"
    assert main([*call, "--threshold", "0", "--synthetic-threshold", "1"]) == 0  # goes on from what was computed
    told = json.loads(capsys.readouterr().out)
    assert told["thresholds"] == {"by": "match", "original": 0.0, "synthetic": 1.0}
    assert told["decisions"]["failed"] == 1 and told["decisions"]["original"] == 25  # the long caption was cut
    assert main(call) == 1 and json.loads(capsys.readouterr().out)["error"]["code"] == "out_exists"
    assert main([*call, "--resume"]) == 0 and json.loads(capsys.readouterr().out) == told
    assert main([*call, "--resume", "--seed", "1"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "curation_differs"


def test_the_sheet_holds_everything_and_escapes_it(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"image": str(folder / "data" / f"{n:02d}.png"), "caption": f"<script>alert({n})</script>"} for n in (0, 5)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = words(folder, tmp_path / "out", "--threshold", "-1", "--images", str(folder / "data"))
    assert main([call[0], str(data), *call[2:]]) == 0
    page = (tmp_path / "out" / "curation" / "sheet.html").read_text("utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(0)" in page and "data:image/jpeg;base64," in page
    assert "picture_unknown_format" in page and "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("more", "code", "exit_code"),
    [
        (["--captioner", "CLIP"], "capability_missing", 1),
        (["--filter", "LLAVA"], "capability_missing", 1),
        (["--filter", "nowhere/at/all"], "folder_missing", 1),
        (["--format", "docx"], "usage", 2),
        (["--threshold", "2"], "threshold_range", 1),
        (["--synthetic-threshold", "0.5"], "usage", 2),
        (["--num-beams", "2", "--temperature", "0.5"], "usage", 2),
        (["--engine", "spark"], "usage", 2),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    folder: Path, tmp_path: Path, capsys: Any, tiny_folder: Any, more: list[str], code: str, exit_code: int
) -> None:
    named = {"CLIP": str(folder / "clip"), "LLAVA": str(tiny_folder("llava"))}
    replaced = words(folder, tmp_path / "out")
    for flag, value in zip(more[::2], more[1::2], strict=True):
        if flag in replaced:
            replaced[replaced.index(flag) + 1] = named.get(value, value)
        else:
            replaced += [flag, value]
    assert main([*replaced, "--json"]) == exit_code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert list(tmp_path.iterdir()) == []


def test_the_forecast_writes_nothing(folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(words(folder, tmp_path / "out", "--forecast", "--json")) == 0
    told = json.loads(capsys.readouterr().out)["forecast"]
    assert told["rows"] == 26 and set(told["seconds_per_row"]) == {"captions", "scores"} and told["seconds"] > 0
    assert list(tmp_path.iterdir()) == []
