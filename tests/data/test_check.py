"""`check`: every fault has its code, duplicates and overlap are found, the real processor runs, work is shared."""

from __future__ import annotations

import io
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance
from tests.data.broken_shards import Piece, build, picture
from tests.gallery import encoded, rgb

from chiasm.core.errors import DataError
from chiasm.data.check import Report, check
from chiasm.data.looking import Looker
from chiasm.data.open import open_dataset
from chiasm.data.prints import near_pairs, print_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))


@cache
def processor(family: str) -> Any:
    from chiasm.core.registry import families

    return families()[family].tiny()[1]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def codes(report: Report) -> list[tuple[str | int, str]]:
    return [(row.place.row, row.code) for row in report.bad]


def photo(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A picture with large shapes, different for every seed."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("with_model", [False, True])
def test_places_are_something_to_learn(tmp_path: Path, with_model: bool) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    points = [{"image": "a.jpg", "label": "dog", "points": each} for each in ([{"x": 5, "y": 9}], [], [{"x": 5}])]
    looker = Looker(processor=processor("llava") if with_model else None)
    assert codes(check(open_dataset(lines(tmp_path / "points.jsonl", points)), looker)) == [(2, "row_malformed")]
    boxes = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    assert codes(check(open_dataset(tmp_path / "boxes.json"), looker)) == [(2, "labels_empty")]


def test_every_fault_has_its_code(tmp_path: Path) -> None:
    for name, data in {
        "good.jpg": picture(1), "cut.jpg": picture(2)[:200], "none.jpg": b"", "text.jpg": b"hello there",
        "thin.png": encoded(rgb(300, 20), "PNG"), "dot.png": encoded(rgb(3, 3), "PNG"), "other.jpg": picture(3),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)

    def row(image: Any, question: str, answer: str) -> dict[str, Any]:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        return {"conversations": turns} | ({} if image is None else {"image": image})

    rows = [
        (row("good.jpg", "<image>\nwhat?", "it"), None),
        (row("cut.jpg", "<image>\nwhat?", "it"), "picture_truncated"),
        (row("none.jpg", "<image>\nwhat?", "it"), "picture_empty"),
        (row("text.jpg", "<image>\nwhat?", "it"), "picture_unknown_format"),
        (row("gone.jpg", "<image>\nwhat?", "it"), "picture_missing"),
        (row("thin.png", "<image>\nwhat?", "it"), "picture_extreme"),
        (row("dot.png", "<image>\nwhat?", "it"), "picture_extreme"),
        (row("good.jpg", "no slot", "it"), "image_count"),
        (row(["good.jpg"], "<image><image>two", "it"), "image_count"),
        (row("good.jpg", "<image>\nwhat?", "  "), "labels_empty"),
        ({"image": "good.jpg", "conversations": [{"from": "human", "value": "<image>\nwhat?"}]}, "labels_empty"),
        (row("good.jpg", "<image>\nlong", "word " * 4000), "context_exceeded"),
        (row("good.jpg", "<image>\nwhat? \ufffd", "it"), "text_characters"),
        (row("good.jpg", "<image>\nWHAT?", "It "), "duplicate_exact"),
        (row("good.jpg", "<image>\nanother question", "it"), None),
        (row(None, "no picture at all", "fine"), None),
        (row("../outside.jpg", "<image>\nwhat?", "it"), "picture_outside"),
    ]
    dataset = open_dataset(lines(tmp_path / "rows.jsonl", [row for row, _ in rows]))
    report = check(dataset, Looker(processor=processor("llava")))
    assert codes(report) == [(index, code) for index, (_, code) in enumerate(rows) if code]
    body = (tmp_path / "rows.jsonl").read_bytes()
    for bad in report.bad:
        assert bad.place.offset is not None and body[bad.place.offset - 1 :].startswith(b"\n{")
        assert bad.reason and not bad.reason.startswith(str(tmp_path / "rows.jsonl"))
    assert report.rows == len(rows) and report.to_json()["good"] == 3
    assert set(report.to_json()["bad"][0]) == {"source", "row", "offset", "code", "reason"}
    tokens = report.forecast["tokens"]
    assert tokens["total"] > tokens["visual"] > 0 and tokens["max"] >= tokens["p50"]


def test_a_limit_and_evaluation_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    rows = [{"image": "a.jpg", "question": "q" * n} for n in (1, 200)]
    dataset = open_dataset(lines(tmp_path / "q.jsonl", rows))
    assert codes(check(dataset)) == [(0, "labels_empty"), (1, "labels_empty")]
    assert codes(check(dataset, Looker(evaluation=True))) == []
    looker = Looker(processor=processor("llava"), evaluation=True, max_length=100)
    report = check(dataset, looker)
    assert codes(report) == [(1, "context_exceeded")] and "the limit is 100" in report.bad[0].reason


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_two_towers_check_captions(tmp_path: Path, family: str) -> None:
    for i in range(2):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    (tmp_path / "c.csv").write_text("image,caption\n0.jpg,short\n1.jpg," + "very long " * 200 + "\n")
    report = check(open_dataset(tmp_path / "c.csv"), Looker(processor=processor(family)))
    assert codes(report) == [(1, "text_too_long")] and report.forecast["crops"] == 1


def test_duplicates_among_pairs(tmp_path: Path) -> None:
    one = photo(1)
    encodings = {
        "a.png": encoded(one, "PNG"),
        "b.jpg": encoded(one, "JPEG", quality=40),
        "c.webp": encoded(one.resize((300, 220), Image.Resampling.LANCZOS), "WEBP", quality=70),
        "d.jpg": encoded(ImageEnhance.Brightness(one).enhance(1.01), "JPEG", quality=85),
        "copy.png": encoded(one, "PNG"),
        "e.png": encoded(photo(2), "PNG"),
        "mirror.png": encoded(one.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG"),
    }
    for name, data in encodings.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).with_suffix(".txt").write_text("another caption " + name)
    report = check(open_dataset(tmp_path))
    assert codes(report) == [
        ("b.jpg", "duplicate_near"), ("c.webp", "duplicate_near"),
        ("copy.png", "duplicate_exact"), ("d.jpg", "duplicate_near"),
    ]  # fmt: skip
    assert "a.png" in report.bad[0].reason


def test_rows_may_share_one_stored_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    captions = [{"image": "a.jpg", "caption": f"caption {i % 3}"} for i in range(4)]
    assert codes(check(open_dataset(lines(tmp_path / "c.jsonl", captions)))) == [(3, "duplicate_exact")]
    asked = [{"image": "a.jpg", "question": f"{i}?", "answer": "x"} for i in range(3)]
    assert codes(check(open_dataset(lines(tmp_path / "q.jsonl", asked)))) == []


def test_overlap_with_evaluation_data(tmp_path: Path) -> None:
    train, held = tmp_path / "train", tmp_path / "held"
    for folder in (train, held):
        folder.mkdir()
    for i in range(6):
        (train / f"{i}.png").write_bytes(encoded(photo(i), "PNG"))
        (train / f"{i}.txt").write_text(f"thing {i}")
    (held / "same.png").write_bytes(encoded(photo(2), "PNG"))
    (held / "near.jpg").write_bytes(encoded(photo(4), "JPEG", quality=50))
    (held / "new.png").write_bytes(encoded(photo(50), "PNG"))
    report = check(open_dataset(train), against=[open_dataset(held)])
    assert codes(report) == [("2.png", "overlap_exact"), ("4.png", "overlap_near")]
    assert "same.png" in report.bad[0].reason and "near.jpg" in report.bad[1].reason


def test_what_only_looks_alike_is_left_alone() -> None:
    """Charts and pages differ in a few strokes, flat pictures in their colour."""
    pictures = []
    for i in range(40):
        page = Image.new("RGB", (224, 224), "white")
        draw = ImageDraw.Draw(page)
        for line in range(10):
            draw.text((10, 10 + 20 * line), f"{(i * 7919 + line * 104729) % 10**9}", fill="black", font_size=18)
        pictures.append(page)
    pictures += [Image.new("RGB", (64, 64), (i, 90, 90)) for i in range(60)]
    base = photo(3, (224, 224))
    for x in range(0, 200, 50):
        moved = base.copy()
        ImageDraw.Draw(moved).rectangle((x, 80, x + 30, 110), fill="red")
        pictures.append(moved)
    assert pairs_of(pictures) == []


def pairs_of(pictures: list[Image.Image]) -> list[list[int]]:
    prints = [print_of(picture) for picture in pictures]
    bits = np.array([bits for _, bits in prints], np.uint64)
    return near_pairs(bits, np.stack([thumbnail for thumbnail, _ in prints])).tolist()


def test_recompression_is_seen_through() -> None:
    missed = 0
    for seed in range(60):
        original = photo(seed, (224, 224))
        data = io.BytesIO()
        original.resize((180, 180)).save(data, "JPEG", quality=30 + seed)
        missed += pairs_of([original, photo(seed + 1000), Image.open(data).convert("RGB")]) != [[0, 2]]
    assert missed <= 1


def test_many_equal_prints_cost_linear_time() -> None:
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**63, 30_000).astype(np.uint64)
    bits[::3] = 7  # twenty thousand blank pictures
    thumbnails = np.zeros((30_000, 768), np.uint8)
    start = time.process_time()
    pairs = near_pairs(bits, thumbnails)
    assert time.process_time() - start < 20
    assert set(pairs[:, 1].tolist()) == set(range(3, 30_000, 3))  # each is joined to an earlier one


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_agree_and_faults_of_shards_are_counted(tmp_path: Path, workers: int) -> None:
    groups = [
        [Piece(f"{i:03d}.jpg", encoded(photo(i), "JPEG")), Piece(f"{i:03d}.txt", f"number {i}".encode())]
        for i in range(150)
    ]
    groups[7][1].data = b"\xff"
    groups[90][0].data = groups[90][0].data[:300]
    for piece in groups[40]:
        piece.name = "../" + piece.name
    (tmp_path / "a.tar").write_bytes(build(groups, [], []).data)
    seen: list[tuple[int, int]] = []
    report = check(
        open_dataset(tmp_path / "a.tar"),
        Looker(processor=processor("llava")),
        workers=workers,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert codes(report) == [
        ("../040", "name_unsafe"), ("007", "text_encoding"), ("090", "picture_truncated"),
    ]  # fmt: skip
    assert report.rows == 150 and report.forecast["rows"] == 147 and seen[-1] == (149, 149)


def test_workers_read_parquet_of_many_groups(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {"image": {"bytes": encoded(photo(i, (40, 30)), "JPEG"), "path": None}, "text": f"t{i}"} for i in range(130)
    ]
    rows[77]["image"] = {"bytes": b"broken", "path": None}
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=10)
    report = check(open_dataset(tmp_path / "a.parquet"), workers=2)
    assert codes(report) == [(77, "picture_unknown_format")] and report.forecast["pictures"] == 129


def test_what_looks_like_data_and_is_none(tmp_path: Path) -> None:
    """A quote that is never closed, captions without a visible character, a choice that isn't there, empty bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "open.tsv").write_text('image\tcaption\na.png\tfine\na.png\t"never closed\na.png\tlost\n')
    report = check(open_dataset(str(tmp_path / "open.tsv")), Looker())
    assert codes(report) == [(1, "row_malformed")] and "2 line breaks follow" in report.bad[0].reason
    blank = [{"image": "a.png", "caption": words} for words in ("\u200b", "\u2060 \ufeff", "\u202e\u200f")]
    assert [code for _, code in codes(check(open_dataset(str(lines(tmp_path / "b.jsonl", blank))), Looker()))] == [
        "caption_empty"
    ] * 3
    asked = [{"image": "a.png", "question": f"{n}?", "choices": ["x", "y"], "answer": n} for n in (0, 1, 2)]
    assert codes(check(open_dataset(str(lines(tmp_path / "c.jsonl", asked))), Looker())) == [(2, "answer_missing")]
    (tmp_path / "e.csv").write_text("image;caption\na.png;fine\n")
    with pytest.raises(DataError, match="format_unknown.*between ';'"):
        open_dataset(str(tmp_path / "e.csv"))
    pq.write_table(pa.table({"image": [picture(2), b""], "caption": ["a", "b"]}), tmp_path / "d.parquet")
    assert codes(check(open_dataset(str(tmp_path / "d.parquet")), Looker())) == [(1, "picture_empty")]
