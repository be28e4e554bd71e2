"""`chiasm data` as people and programs call it: JSON, exit codes, skip lists, one-line failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.broken_shards import picture

from chiasm.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))

    def call(*words: object) -> tuple[int, str, str]:
        code = main(["data", *(str(word) for word in words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Five conversations: good, cut picture, no slot, nothing to learn, good."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.jpg").write_bytes(picture(i))
    (folder / "1.jpg").write_bytes(picture(1)[:150])
    texts = [("<image>\na?", "b"), ("<image>\na?", "b"), ("a?", "b"), ("<image>\na?", " "), ("<image>\nz?", "b")]
    records: list[dict[str, Any]] = [
        {"image": f"{i}.jpg", "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for i, (q, a) in enumerate(texts)
    ]
    (folder / "rows.json").write_text(json.dumps(records))
    return folder / "rows.json"


def test_check_prints_one_document_and_fails_on_bad_rows(
    run: Run, rows: Path, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    skips = tmp_path / "bad.jsonl"
    code, out, err = run("check", rows, "--model", tiny_folder("llava"), "--skip-list", skips, "--json")
    document = json.loads(out)
    assert code == 1 and err == ""
    assert (document["rows"], document["good"]) == (5, 2)
    assert [(bad["row"], bad["code"]) for bad in document["bad"]] == [
        (1, "picture_truncated"), (2, "image_count"), (3, "labels_empty"),
    ]  # fmt: skip
    assert all(set(bad) == {"source", "row", "offset", "code", "reason"} for bad in document["bad"])
    assert document["bad"][0]["source"] == str(rows) and isinstance(document["bad"][0]["offset"], int)
    forecast = document["forecast"]
    assert forecast["tokens"]["total"] > 0 and forecast["memory"]["training_bytes"] > 0
    assert forecast["time"]["training_seconds_here"] >= 0 and forecast["model"]["parameters"] > 0

    code, out, _ = run("convert", rows, tmp_path / "kept", "--to", "messages", "--skip-list", skips, "--json")
    assert code == 0 and json.loads(out)["rows"] == 2
    code, out, _ = run("check", tmp_path / "kept")
    assert code == 0 and "2 rows: 2 good, 0 bad" in out


def test_check_for_people_names_each_row(run: Run, rows: Path) -> None:
    code, out, _ = run("check", rows)
    assert code == 1 and "5 rows: 2 good, 3 bad" in out
    assert "rows.json, row 2 (byte " in out and "1 pictures and 0 <image> slots" in out


def test_against_and_columns(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "train.csv").write_text("image,alt,title\na.jpg,one,two\n")
    (tmp_path / "eval.csv").write_text("image,question\na.jpg,what?\n")
    code, out, _ = run("check", tmp_path / "train.csv", "--json")
    assert code == 1 and json.loads(out)["error"]["code"] == "columns_ambiguous"
    words = ("check", tmp_path / "train.csv", "--column", "caption=alt", "--json")
    assert run(*words)[0] == 0
    code, out, _ = run(*words, "--against", tmp_path / "eval.csv")
    assert code == 1 and [bad["code"] for bad in json.loads(out)["bad"]] == ["overlap_exact"]
    assert run("check", tmp_path / "eval.csv", "--evaluation")[0] == 0


def test_convert_says_what_it_left_out(run: Run, rows: Path, tmp_path: Path) -> None:
    code, out, err = run("convert", rows, tmp_path / "out", "--to", "webdataset")
    assert code == 1 and out == "" and err.startswith("error[picture_truncated]: ") and err.count("\n") == 1
    assert "--skip-bad" in err and not (tmp_path / "out").exists()
    code, out, err = run("convert", rows, tmp_path / "out", "--to", "webdataset", "--skip-bad")
    assert code == 0 and "3 rows, 3 pictures, 2 left out" in out and "row 1" in err
    code, out, _ = run("show", tmp_path / "out", "--row", 1, "--count", 1, "--json")
    assert code == 0 and json.loads(out)["rows"] == 3
    assert json.loads(out)["samples"][0]["conversation"][0]["parts"][0]["type"] == "image"
    assert run("convert", rows, tmp_path / "new", "--to", "docx")[0] == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("check",), 2),
        (("check", "rows.json", "--max-length", "8"), 2),
        (("check", "rows.json", "--column", "caption"), 2),
        (("show", "rows.json", "--row", "99"), 2),
        (("check", "nowhere.tar"), 1),
        (("pull", "nothing"), 1),
    ],
)
def test_wrong_usage_is_one_line(
    run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(rows.parent)
    found, out, err = run(*words)
    assert found == code and out == "" and err.startswith("error[") and err.count("\n") == 1


def test_list_names_everything(run: Run) -> None:
    code, out, _ = run("list", "--json")
    document = json.loads(out)
    assert code == 0 and {"scenes", "stamps"} <= set(document["named"])
    assert {"WebDataset", "COCO", "VQAv2", "conversations", "messages", "pairs"} <= set(document["read"])
    assert {"webdataset", "llava", "messages", "coco", "csv", "parquet"} <= set(document["written"])
