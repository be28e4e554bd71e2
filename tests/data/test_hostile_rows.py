"""Hostile and broken rows are refused by name, one at a time, and can be skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.data.broken_shards import picture
from tests.data.reading import code_of, lines, sizes

from chiasm.core.errors import ChiasmError, DataError
from chiasm.data.open import open_dataset
from chiasm.data.rows import readable_rows
from chiasm.data.skips import write_skips

pytestmark = pytest.mark.usefixtures("own_cache")


def test_hostile_rows_are_refused_one_at_a_time(home: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    os.symlink(tmp_path / "secret.jpg", home / "images" / "link.jpg")
    os.symlink("0.jpg", home / "images" / "inside.jpg")
    names = [
        ("0.jpg", None), ("inside.jpg", None), ("../secret.jpg", "picture_outside"),
        (str(tmp_path / "secret.jpg"), "picture_outside"), ("link.jpg", "picture_outside"),
        ("/etc/passwd", "picture_outside"), ("images/../../secret.jpg", "picture_outside"), ("a\0b", "picture_outside"),
        ("", "picture_missing"), (None, "picture_missing"), (7, "picture_missing"), ({}, "picture_missing"),
    ]  # fmt: skip
    dataset = open_dataset(lines(home / "h.jsonl", [{"image": name, "text": "x"} for name, _ in names]))
    for index, (name, code) in enumerate(names):
        if code is None:
            assert sizes(dataset[index]) == [(24, 20)]
        else:
            assert code_of(dataset, index) == code, name
    allowed = open_dataset(home / "h.jsonl", images=tmp_path)
    assert sizes(allowed[3]) == [(24, 20)] and code_of(allowed, 5) == "picture_outside"


@pytest.mark.parametrize("address", ["https://example.org/a.jpg", "file:///etc/passwd", "s3://bucket/a.jpg"])
def test_addresses_are_refused_when_read(home: Path, address: str) -> None:
    (sample,) = open_dataset(lines(home / "r.jsonl", [{"image": address, "text": "x"}]))
    with pytest.raises(ChiasmError) as caught:
        sizes(sample)
    assert caught.value.code in ("picture_remote", "picture_scheme")


def test_broken_lines_leave_their_neighbours_alone(home: Path) -> None:
    good = b'{"image": "0.jpg", "text": "good"}'
    bad = {
        b'{"image": "0.jpg", "text": "caf\xe9"}': "text_encoding",
        b'{"image": "0.jpg", "text": "cut': "json_malformed",
        b'{"image": "0.jpg", "text": NaN}': "json_not_finite",
        b'{"image": "0.jpg", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}": "json_too_deep",
        b'{"image": "0.jpg", "text": "a", "text": "b"}': "json_malformed",
        rb'{"image": "0.jpg", "text": "half \ud83d"}': "text_encoding",
        b"[1, 2]": "row_malformed",
        b'{"text": "no picture"}': "column_missing",
        b'{"image": "0.jpg", "text": " "}': "caption_empty",
        b'{"image": 1e999, "text": "x"}': "picture_missing",
    }
    body = b"\n".join([good, *(line for each in bad for line in (each, b"", good))])
    (home / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + body)
    dataset = open_dataset(home / "b.jsonl")
    rows, faults = readable_rows(dataset)
    assert [sample.captions for sample in rows] == [("good",)] * (len(bad) + 1)
    assert [fault.code for fault in faults] == list(bad.values())
    assert all(body[fault.place.offset - 3 :].startswith(each[:20]) for fault, each in zip(faults, bad, strict=True))


def test_broken_tables_and_lists(home: Path) -> None:
    (home / "t.csv").write_bytes(b"image,text\n0.jpg,ok\n0.jpg,too,many\n0.jpg,caf\xe9\n0.jpg,ok\n")
    rows, faults = readable_rows(open_dataset(home / "t.csv"))
    assert len(list(rows)) == 2
    assert [(fault.place.row, fault.code) for fault in faults] == [(1, "row_malformed"), (2, "text_encoding")]
    (home / "t.json").write_text('[{"image": "0.jpg", "text": "ok"}, {"image": ')
    with pytest.raises(DataError) as caught:
        open_dataset(home / "t.json")
    assert caught.value.code == "json_malformed" and "t.json" in str(caught.value)
    (home / "t.parquet").write_bytes(b"PAR1" + b"\0" * 40)
    with pytest.raises(DataError) as caught:
        open_dataset(home / "t.parquet")
    assert caught.value.code == "parquet_damaged"
    for name, data in (("e.jsonl", b"\n \n"), ("z.csv", b"\0\1\2"), ("s.json", b'{"a": 1}')):
        (home / name).write_bytes(data)
        with pytest.raises(DataError):
            open_dataset(home / name)


def test_a_skip_list_is_honoured_and_bound_to_its_data(home: Path) -> None:
    path = lines(home / "a.jsonl", [{"image": "0.jpg", "text": f"t{i}"} for i in range(4)])
    dataset = open_dataset(path)
    bad = [{"index": 1, "source": "s", "row": 1, "offset": 0, "code": "c", "reason": "r"}, {"index": None, "row": "x"}]
    write_skips(home / "bad.list", dataset, bad)
    kept = open_dataset(path, skip=home / "bad.list")
    assert [sample.captions[0] for sample in kept] == ["t0", "t2", "t3"]
    assert kept.fingerprint != dataset.fingerprint and kept[1].place.row == 2
    lines(path, [{"image": "0.jpg", "text": "other"}])
    with pytest.raises(DataError) as caught:
        open_dataset(path, skip=home / "bad.list")
    assert caught.value.code == "skip_list_stale"
    with pytest.raises(DataError, match="is no skip list"):
        open_dataset(path, skip=path)
