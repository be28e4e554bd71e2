"""Conversion: rows survive the way there and back, outputs appear whole or not at all, `webdataset` reads ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.data.broken_shards import Piece, build, picture

from chiasm.core.errors import ChiasmError, DataError
from chiasm.core.messages import ImagePart, TextPart
from chiasm.core.samples import Sample
from chiasm.data import convert as converting
from chiasm.data.convert import convert, writers
from chiasm.data.open import open_dataset
from chiasm.processing.pictures import encoded_picture, read_picture


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))


def pairs(root: Path, count: int = 3) -> Path:
    folder = root / "pairs"
    folder.mkdir()
    for i in range(count):
        (folder / f"{i}.jpg").write_bytes(picture(i))
        (folder / f"{i}.txt").write_text(f'a "quoted", comma and ü {i}\n')
    return folder


def talks(root: Path) -> Path:
    folder = root / "talks"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(picture(i))
    rows = [
        {
            "id": 7,
            "kind": "compare",
            "image": ["0.jpg", "1.jpg"],
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Here <image> and\n<image>\nWhich is red?"},
                {"from": "gpt", "value": "the first"},
                {"from": "human", "value": "sure?"},
                {"from": "gpt", "value": "yes\nindeed"},
            ],
        },
        {
            "image": "2.jpg",
            "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "ü"}],
        },
        {"conversations": [{"from": "human", "value": "no picture"}, {"from": "gpt", "value": "none"}]},
    ]
    (folder / "talks.json").write_text(json.dumps(rows))
    return folder / "talks.json"


def essence(sample: Sample) -> Any:
    """What a row says, without its place: adjoining texts are one."""
    turns = []
    for message in sample.conversation.messages:
        parts: list[Any] = []
        for part in message.parts:
            if isinstance(part, ImagePart):
                parts.append(encoded_picture(part.source) or read_picture(part.source).tobytes())
            elif isinstance(part, TextPart):
                if parts and isinstance(parts[-1], str):
                    parts[-1] += part.text
                else:
                    parts.append(part.text)
        turns.append((message.role, parts))
    return turns, {name: value for name, value in sample.annotations.items() if name != "id"}


def captions(sample: Sample) -> tuple[str, ...]:
    return sample.captions or (sample.conversation.messages[-1].text,)


@pytest.mark.parametrize("to", sorted(writers()))
def test_pairs_survive_every_format(tmp_path: Path, to: str) -> None:
    source = open_dataset(pairs(tmp_path))
    done = convert(source, tmp_path / "out", to)
    back = open_dataset(tmp_path / "out")
    assert done.rows == done.pictures == len(back) == 3 and not done.left_out and not done.skipped
    drop = {"kind"}
    for before, after in zip(source, back, strict=True):
        turns, extra = essence(after)
        assert turns == essence(before)[0] and set(extra) <= drop
        assert captions(after) == captions(before)


@pytest.mark.parametrize("to", ["webdataset", "messages", "llava", "parquet"])
def test_conversations_survive(tmp_path: Path, to: str) -> None:
    source = open_dataset(talks(tmp_path))
    convert(source, tmp_path / "out", to)
    back = open_dataset(tmp_path / "out")
    assert [essence(sample) for sample in back] == [essence(sample) for sample in source]
    again = open_dataset(tmp_path / "out")
    assert again.fingerprint == back.fingerprint


@pytest.mark.parametrize("to", ["csv", "tsv", "coco", "folder", "jsonl"])
def test_a_row_that_does_not_fit_is_named_and_nothing_is_left_behind(tmp_path: Path, to: str) -> None:
    with pytest.raises(DataError) as caught:
        convert(open_dataset(talks(tmp_path)), tmp_path / "out", to)
    assert caught.value.code == "convert_unfit" and "talks.json, row 0" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"talks", "cache"}


def test_questions_become_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "q.csv").write_text('image,question,answers\na.jpg,"who, me?",you\n')
    convert(open_dataset(tmp_path / "q.csv"), tmp_path / "out", "csv")
    lines = (tmp_path / "out" / "data.csv").read_bytes().split(b"\r\n")
    assert lines == [b"image,question,answer", b'images/000000000.jpg,"who, me?",you', b""]


def test_pixels_without_a_file_become_png(tmp_path: Path) -> None:
    from chiasm.core.messages import Conversation, Message
    from chiasm.core.samples import Place

    class Drawn:
        name, fingerprint = "drawn", "1"

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Sample:
            part = ImagePart(Image.new("RGB", (20, 20), (index, 0, 0)))
            turns = (Message("user", (part,)), Message("assistant", (TextPart("red"),)))
            boxes = [{"box": [1.0, 2.0, 5.5, 8.0], "phrase": "a thing"}]
            return Sample(
                key=str(index), conversation=Conversation(turns), place=Place("drawn", index),
                captions=("red", "dark"), annotations={"boxes": boxes, "kind": "boxes"},
            )  # fmt: skip

        def __iter__(self) -> Any:
            return (self[i] for i in range(2))

    for to in ("webdataset", "coco", "messages", "parquet", "llava"):
        convert(Drawn(), tmp_path / to, to)
        back = open_dataset(tmp_path / to)
        assert back[1].captions == ("red", "dark"), to
        assert back[1].annotations["boxes"] == [{"box": [1.0, 2.0, 5.5, 8.0], "phrase": "a thing"}], to
        (part,) = back[1].conversation.images()
        assert read_picture(part.source).getpixel((0, 0)) == (1, 0, 0)


def test_the_webdataset_package_reads_our_shards(tmp_path: Path) -> None:
    import webdataset

    convert(open_dataset(pairs(tmp_path)), tmp_path / "pairs-out", "webdataset")
    convert(open_dataset(talks(tmp_path)), tmp_path / "talks-out", "webdataset")
    rows = list(
        webdataset.WebDataset(str(tmp_path / "pairs-out" / "shard-000000.tar"), shardshuffle=False).decode("pil")
    )
    assert [row["txt"] for row in rows] == [f'a "quoted", comma and ü {i}' for i in range(3)]
    assert [row["jpg"].size for row in rows] == [(24, 20)] * 3
    rows = list(
        webdataset.WebDataset(str(tmp_path / "talks-out" / "shard-000000.tar"), shardshuffle=False).decode("pil")
    )
    assert [sorted(name for name in row if not name.startswith("__")) for row in rows] == [
        ["0.jpg", "1.jpg", "json"], ["0.jpg", "json"], ["json"],
    ]  # fmt: skip
    assert rows[0]["json"]["annotations"]["kind"] == "compare"


def test_shards_are_cut_and_equal_rows_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chiasm.data.writers.webdataset import ShardWriter

    source = open_dataset(pairs(tmp_path, 5))
    monkeypatch.setitem(converting.writers(), "webdataset", lambda folder: ShardWriter(folder, rows=2))
    convert(source, tmp_path / "one", "webdataset")
    convert(source, tmp_path / "two", "webdataset")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [f"shard-{n:06d}.tar" for n in range(3)]
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)
    assert len(open_dataset(tmp_path / "one")) == 5


def test_bad_rows_stop_or_are_counted(tmp_path: Path) -> None:
    groups = [[Piece(f"{i}.jpg", picture(i)), Piece(f"{i}.txt", b"ok")] for i in range(4)]
    groups[1][1].data = b"\xff\xfe"
    groups[2][0].data = b"not a picture"
    groups[3] = [Piece("../3.jpg", picture(3)), Piece("../3.txt", b"ok")]
    (tmp_path / "a.tar").write_bytes(build(groups, [], []).data)
    source = open_dataset(tmp_path / "a.tar")
    with pytest.raises(ChiasmError, match="skip-bad"):
        convert(source, tmp_path / "out", "messages")
    done = convert(source, tmp_path / "out", "messages", skip_bad=True)
    assert done.rows == 1 and [fault.code for fault in done.skipped] == [
        "name_unsafe", "text_encoding", "picture_unknown_format",
    ]  # fmt: skip
    with pytest.raises(DataError, match="there already"):
        convert(source, tmp_path / "out", "messages")


def test_a_stored_picture_is_written_once(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "q.csv").write_text("image,question,answer\na.jpg,one?,1\na.jpg,two?,2\n")
    done = convert(open_dataset(tmp_path / "q.csv"), tmp_path / "out", "messages")
    assert done.rows == 2 and done.pictures == 1 and len(list((tmp_path / "out" / "images").iterdir())) == 1


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converting, "_sync_folders", full)
    with pytest.raises(DataError) as caught:
        convert(open_dataset(pairs(tmp_path)), tmp_path / "out", "llava")
    assert caught.value.code == "disk_full"
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"pairs"}
