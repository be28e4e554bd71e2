"""Every format is recognised by its content and read whole; hostile rows are refused by name, one at a time."""

from __future__ import annotations

import base64
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from tests.data.broken_shards import picture

from chiasm.core.errors import ChiasmError, DataError
from chiasm.core.messages import ImagePart, TextPart
from chiasm.core.samples import Dataset, Sample
from chiasm.data.open import open_dataset
from chiasm.data.rows import readable_rows
from chiasm.data.skips import write_skips
from chiasm.processing.pictures import picture_size, read_picture


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with three pictures of 24×20 pixels in `images/`."""
    folder = tmp_path / "home"
    (folder / "images").mkdir(parents=True)
    for i in range(3):
        (folder / "images" / f"{i}.jpg").write_bytes(picture(i))
    return folder


def texts(sample: Sample) -> list[str]:
    return [f"{m.role}: {m.text}" for m in sample.conversation.messages]


def sizes(sample: Sample) -> list[tuple[int, int]]:
    return [read_picture(part.source).size for part in sample.conversation.images()]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def code_of(dataset: Dataset, index: int) -> str:
    with pytest.raises(ChiasmError) as caught:
        dataset[index]
    return caught.value.code


# --- pairs --------------------------------------------------------------------------------------------------

PAIRS = [("0.jpg", "one"), ("1.jpg", "two, or more"), ("2.jpg", "line\nbreak ü")]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "data.json", "parquet"])
def test_pairs(home: Path, kind: str) -> None:
    path = home / f"pairs.{kind.rpartition('.')[2]}"
    rows = [{"image_path": name, "Caption": text, "n": i} for i, (name, text) in enumerate(PAIRS)]
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        body = "".join(f'{name}{mark}"{text}"{mark}{i}\r\n' for i, (name, text) in enumerate(PAIRS))
        path.write_bytes(f"\ufeffimage_path{mark}Caption{mark}n\r\n{body}".encode())
    elif kind == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif kind == "jsonl":
        lines(path, rows)
    else:
        path.write_text(json.dumps({"version": {"a": [1]}, "data": rows} if kind == "data.json" else rows))
    dataset = open_dataset(path)
    assert [sample.captions for sample in dataset] == [(text,) for _, text in PAIRS]
    assert [texts(sample)[-1] for sample in dataset] == [f"assistant: {text}" for _, text in PAIRS]
    assert sizes(dataset[-1]) == [(24, 20)] and int(dataset[2].annotations["n"]) == 2
    assert [sample.key for sample in dataset] == [f"pairs/{i}" for i in range(3)]
    place = dataset[1].place
    assert place.source == str(path) and place.row == 1 and (place.offset is None) == (kind == "parquet")
    if place.offset is not None:
        start = path.read_bytes()[place.offset :].removeprefix(b'{"image_path": "')
        assert start.startswith(b"1.jpg")
    assert open_dataset(path).fingerprint == dataset.fingerprint


def test_questions_choices_and_labels(home: Path) -> None:
    rows = [
        {"image": "0.jpg", "question": "<image>\nwhat?", "answers": ["a", "b", "b"], "text": "kept"},
        {"image": "1.jpg", "question": "which?", "choices": ["red", "blue"], "answer": 1, "text": "kept"},
        {"image": ["0.jpg", "2.jpg"], "question": "both?", "answer": "yes", "text": "kept"},
    ]
    one, two, three = open_dataset(lines(home / "q.jsonl", rows))
    assert texts(one) == ["user: what?", "assistant: b"] and one.annotations["answers"] == ["a", "b", "b"]
    assert texts(two)[-1] == "assistant: blue" and two.annotations["choices"] == ["red", "blue"]
    assert len(sizes(three)) == 2 and three.annotations["text"] == "kept"
    (label,) = open_dataset(lines(home / "l.jsonl", [{"img": "0.jpg", "label": "cat"}]))
    assert label.annotations["label"] == "cat" and texts(label)[-1] == "assistant: cat"


def test_two_columns_for_one_role_are_named_and_the_caller_decides(home: Path) -> None:
    path = lines(home / "a.jsonl", [{"image": "0.jpg", "alt": "first", "title": "second"}])
    with pytest.raises(DataError) as caught:
        open_dataset(path)
    assert caught.value.code == "columns_ambiguous"
    assert "'image', 'alt', 'title'" in str(caught.value) and "--column caption=alt" in str(caught.value)
    assert open_dataset(path, columns={"caption": "title"})[0].captions == ("second",)
    with pytest.raises(DataError, match="no column 'nope'"):
        open_dataset(path, columns={"caption": "nope"})
    odd = lines(home / "b.jsonl", [{"bild": "0.jpg", "wort": "x"}])
    with pytest.raises(DataError, match="'bild', 'wort'"):
        open_dataset(odd)
    assert open_dataset(odd, columns={"image": "bild", "caption": "wort"})[0].captions == ("x",)


def test_embedded_pictures(home: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    code = base64.b64encode(picture(5)).decode()
    rows = [{"image": code, "text": "bare"}, {"image": f"data:image/jpeg;base64,{code}", "text": "uri"}]
    assert [sizes(sample) for sample in open_dataset(lines(home / "e.jsonl", rows))] == [[(24, 20)]] * 2
    (home / "e.tsv").write_text(f"index\timage\tquestion\tanswer\n0\t{code * 1}\twhat?\tit\n")
    assert sizes(open_dataset(home / "e.tsv")[0]) == [(24, 20)]
    table = pa.Table.from_pylist([{"image": {"bytes": picture(6), "path": "../x.jpg"}, "text": "hf"}])
    parquet.write_table(table, home / "e.parquet")
    assert sizes(open_dataset(home / "e.parquet")[0]) == [(24, 20)]


# --- conversations ------------------------------------------------------------------------------------------


def test_llava_and_sharegpt(home: Path) -> None:
    llava = [
        {
            "id": "x",
            "image": "0.jpg",
            "conversations": [{"from": "human", "value": "what?\n<image>"}, {"from": "gpt", "value": "it"}],
        },
        {
            "image": "1.jpg",
            "conversations": [{"from": "human", "value": "no slot"}, {"from": "gpt", "value": "it"}],
        },
        {"image": "0.jpg", "conversations": [{"from": "narrator", "value": "<image>"}]},
    ]
    (home / "llava.json").write_text(json.dumps(llava))
    dataset = open_dataset(home / "llava.json")
    parts = dataset[0].conversation.messages[0].parts
    assert [type(part) for part in parts] == [TextPart, ImagePart] and parts[0] == TextPart("what?")
    with pytest.raises(DataError, match=r"llava\.json, row 1: the row has 1 pictures and 0 <image> slots"):
        dataset[1]
    assert code_of(dataset, 2) == "row_malformed"
    share = [{"images": ["0.jpg", "1.jpg"], "conversations": [{"role": "user", "content": "<image><image>a"}]}]
    (sample,) = open_dataset(lines(home / "share.jsonl", share))
    assert len(sizes(sample)) == 2


def test_messages(home: Path) -> None:
    image, slot = {"type": "image_url", "image_url": {"url": "images/0.jpg"}}, {"type": "image"}
    rows = [
        {"messages": [{"role": "user", "content": [image, {"type": "text", "text": "what?"}]}], "kind": "k"},
        {"messages": [{"role": "user", "content": "plain"}, {"role": "assistant", "content": "yes"}]},
        {
            "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}],
            "images": ["0.jpg", "1.jpg"],
        },
        {"messages": [{"role": "user", "content": [slot]}], "images": []},
        {"messages": [{"role": "user", "content": "<image>now"}], "images": ["2.jpg"]},
        {"messages": [{"role": "user", "content": [{"type": "image", "path": "../../../etc/passwd"}]}]},
    ]
    dataset = open_dataset(lines(home / "m.jsonl", rows))
    assert sizes(dataset[0]) == [(24, 20)] and dataset[0].annotations == {"kind": "k"}
    assert texts(dataset[1]) == ["user: plain", "assistant: yes"]
    assert len(sizes(dataset[2])) == 2 and len(sizes(dataset[4])) == 1
    assert code_of(dataset, 3) == "image_count" and code_of(dataset, 5) == "picture_outside"


def test_documents(home: Path) -> None:
    rows = [
        {"images": ["0.jpg", None, "1.jpg"], "texts": [None, "between", None], "metadata": "m"},
        {"images": ["0.jpg"], "texts": []},
    ]
    dataset = open_dataset(lines(home / "obelics.jsonl", rows))
    (turn,) = dataset[0].conversation.messages
    assert [type(part) for part in turn.parts] == [ImagePart, TextPart, ImagePart] and turn.role == "assistant"
    assert code_of(dataset, 1) == "row_malformed"
    info = [
        {"image_name": "2.jpg", "raw_url": "https://example.org/2.jpg", "matched_text_index": 1, "matched_sim": 0.3}
    ]
    mmc4 = [{"text_list": ["First.", "Second."], "image_info": info, "similarity_matrix": [[0.1, 0.3]], "url": "u"}]
    (sample,) = open_dataset(lines(home / "mmc4.jsonl", mmc4))
    assert [type(part) for part in sample.conversation.messages[0].parts] == [TextPart, ImagePart, TextPart]
    assert sizes(sample) == [(24, 20)] and sample.annotations["url"] == "u"


def test_points(home: Path) -> None:
    rows = [
        {"image": "0.jpg", "label": "dog", "count": 1, "points": [{"x": 50.0, "y": 25.0}]},
        {"image": "0.jpg", "label": "dog", "count": 1, "points": {"x": [12.0], "y": [5.0]}},
        {"image": "0.jpg", "label": "dog", "count": 0, "points": []},
        {"image": "0.jpg", "label": "dog", "count": 1, "points": [{"x": None, "y": 1}]},
    ]
    dataset = open_dataset(lines(home / "points.jsonl", rows))
    assert [dataset[i].annotations["points"] for i in (0, 1, 2)] == [
        [{"point": [12.0, 5.0], "phrase": "dog"}], [{"point": [12.0, 5.0], "phrase": "dog"}], [],
    ]  # fmt: skip
    assert code_of(dataset, 3) == "row_malformed"


# --- COCO and its relatives ---------------------------------------------------------------------------------


def coco(root: Path) -> dict[str, Any]:
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    images = []
    for i in range(3):
        name = f"{i:012d}.jpg"
        (root / "train2017" / name).write_bytes(picture(i))
        images.append({"id": i + 10, "file_name": name, "width": 24, "height": 20})
    return {"images": images}


def test_coco_captions_and_boxes(tmp_path: Path) -> None:
    document = coco(tmp_path / "coco")
    notes = [{"id": n, "image_id": i, "caption": f"c{n}"} for n, i in enumerate((10, 11, 10, 99))]
    path = tmp_path / "coco" / "annotations" / "captions_train2017.json"
    path.write_text(json.dumps({**document, "annotations": notes}))
    dataset = open_dataset(path)
    assert [sample.captions for sample in dataset] == [("c0", "c2"), ("c1",)]
    assert sizes(dataset[1]) == [(24, 20)] and dataset[1].place.row == 11
    assert sorted((fault.place.row, fault.code) for fault in dataset.faults if fault.code == "caption_empty") == [
        (12, "caption_empty")
    ]
    assert [fault.place.row for fault in dataset.faults if fault.code == "annotation_orphan"] == ["annotation 3"]
    boxes = [{"id": 1, "image_id": 10, "bbox": [1, 2, 3, 4], "category_id": 5, "iscrowd": 0}]
    boxes += [{"id": 2, "image_id": 11, "bbox": [1, 2, float("inf"), 4], "category_id": 5}]
    path = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    names = [{"id": 5, "name": "cat"}]
    path.write_text(json.dumps({**document, "annotations": boxes, "categories": names}).replace("Infinity", "1e999"))
    dataset = open_dataset(path)
    assert len(dataset) == 3 and dataset[2].annotations == {"id": 12}
    assert dataset[0].annotations["boxes"] == [{"box": [1, 2, 4, 6], "phrase": "cat"}]
    assert code_of(dataset, 1) == "row_malformed"


def test_vqav2(tmp_path: Path) -> None:
    root = tmp_path / "vqa"
    (root / "train2014").mkdir(parents=True)
    (root / "train2014" / "COCO_train2014_000000000009.jpg").write_bytes(picture(9))
    asked = [{"image_id": 9, "question": f"q{i}?", "question_id": 90 + i} for i in range(3)]
    said = [
        {
            "question_id": 90 + i, "image_id": 9, "multiple_choice_answer": "net", "answer_type": "other",
            "question_type": "what is", "answers": [{"answer": "net"}, {"answer": "mesh"}],
        }
        for i in range(2)
    ]  # fmt: skip
    questions = root / "v2_OpenEnded_mscoco_train2014_questions.json"
    questions.write_text(json.dumps({"data_subtype": "train2014", "questions": asked}))
    (root / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": said}))
    for spec in (root, questions, root / "v2_mscoco_train2014_annotations.json"):
        dataset = open_dataset(spec)
        assert len(dataset) == 2 and [fault.code for fault in dataset.faults] == ["answer_missing"]
        assert texts(dataset[0]) == ["user: q0?", "assistant: net"] and sizes(dataset[0]) == [(24, 20)]
        assert dataset[0].annotations["answers"] == ["net", "mesh"] and dataset[0].annotations["kind"] == "other"
    (root / "v2_mscoco_train2014_annotations.json").unlink()
    assert [texts(sample) for sample in open_dataset(questions)] == [[f"user: q{i}?"] for i in range(3)]


def test_references_in_json_and_the_pickle_refused(tmp_path: Path) -> None:
    root = tmp_path / "refcoco"
    (root / "images" / "train2014").mkdir(parents=True)
    (root / "images" / "train2014" / "COCO_train2014_000000000009.jpg").write_bytes(picture(9))
    refs = [
        {
            "ref_id": 1, "ann_id": 7, "image_id": 9, "split": "testA", "file_name": "COCO_train2014_000000000009_7.jpg",
            "sentences": [{"sent": "the left cat"}, {"raw": "cat"}],
        },
        {"ref_id": 2, "ann_id": 8, "image_id": 9, "file_name": "COCO_train2014_000000000009_8.jpg",
         "sentences": [{"sent": "nothing"}]},
    ]  # fmt: skip
    (root / "refs.json").write_text(json.dumps(refs))
    image = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}
    boxes = {"images": [image], "annotations": [{"id": 7, "image_id": 9, "bbox": [2, 3, 4, 5]}]}
    (root / "instances.json").write_text(json.dumps(boxes))
    (root / "images" / "COCO_train2014_000000000009.jpg").write_bytes(picture(9))
    dataset = open_dataset(root / "refs.json")
    assert [texts(dataset[i]) for i in (0, 1)] == [["user: the left cat"], ["user: cat"]]
    assert dataset[0].annotations["boxes"] == [{"box": [2, 3, 6, 8], "phrase": "the left cat"}]
    assert dataset[0].annotations["split"] == "testA" and sizes(dataset[1]) == [(24, 20)]
    assert code_of(dataset, 2) == "box_missing"
    (root / "refs(unc).p").write_bytes(pickle.dumps(refs))
    with pytest.raises(DataError) as caught:
        open_dataset(root / "refs(unc).p")
    assert caught.value.code == "pickle_refused" and "json.dump" in str(caught.value)


# --- folders ------------------------------------------------------------------------------------------------


def test_folder_with_texts_and_what_lacks_its_partner(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("a.jpg", "sub/b.png", "alone.jpg", ".hidden/x.jpg"):
        (folder / name).write_bytes(picture(1))
    (folder / "a.txt").write_text("first\n\nsecond\n")
    (folder / "sub" / "b.txt").write_bytes(b"\xff\xfe")
    (folder / "nobody.txt").write_text("no picture")
    dataset = open_dataset(folder)
    assert dataset[0].captions == ("first", "second") and dataset[0].key == "a.jpg"
    assert code_of(dataset, 1) == "text_encoding"
    assert sorted((fault.place.row, fault.code) for fault in dataset.faults) == [
        ("alone.jpg", "caption_empty"), ("nobody.txt", "picture_missing"),
    ]  # fmt: skip
    (folder / "blank.png").write_bytes(picture(1))
    (folder / "blank.txt").write_text(" \n")
    wordless = open_dataset(folder, wordless=True)
    assert [(wordless.key(row), wordless[row].captions) for row in range(3)] == [
        ("a.jpg", ("first", "second")), ("alone.jpg", ()), ("blank.png", ()),
    ]  # fmt: skip
    assert [fault.place.row for fault in wordless.faults] == ["nobody.txt"]
    before = dataset.fingerprint
    (folder / "a.txt").write_text("other\n")
    assert open_dataset(folder).fingerprint != before


def test_folder_of_classes_and_of_bare_pictures(tmp_path: Path) -> None:
    for name in ("cat/0.jpg", "dog/0.jpg"):
        (tmp_path / "classes" / name).parent.mkdir(parents=True)
        (tmp_path / "classes" / name).write_bytes(picture(1))
    assert [sample.annotations["label"] for sample in open_dataset(tmp_path / "classes")] == ["cat", "dog"]
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "0.jpg").write_bytes(picture(1))
    (sample,) = open_dataset(tmp_path / "bare")
    assert [message.role for message in sample.conversation.messages] == ["user"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="0 pictures"):
        open_dataset(tmp_path / "empty")


def test_a_folder_with_several_data_files_asks_which(home: Path) -> None:
    lines(home / "a.jsonl", [{"image": "0.jpg", "text": "x"}])
    assert len(open_dataset(home)) == 1
    lines(home / "b.jsonl", [{"image": "0.jpg", "text": "x"}])
    with pytest.raises(DataError, match=r"2 data files: a\.jsonl, b\.jsonl"):
        open_dataset(home)


# --- hostile input ------------------------------------------------------------------------------------------


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


# --- skip lists ---------------------------------------------------------------------------------------------


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


def test_sizes_come_from_headers(tmp_path: Path) -> None:
    from tests.gallery import exif_rotated

    for orientation in (1, 6):
        data = exif_rotated(orientation)
        assert picture_size(data) == read_picture(data).size
