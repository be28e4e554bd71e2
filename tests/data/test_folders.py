"""Data that is a folder of its own form, COCO's and its relatives' and plain ones, is recognised and read whole."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from tests.data.broken_shards import picture
from tests.data.reading import code_of, lines, sizes, texts

from chiasm.core.errors import DataError
from chiasm.data.open import open_dataset
from chiasm.processing.pictures import picture_size, read_picture

pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_sizes_come_from_headers(tmp_path: Path) -> None:
    from tests.gallery import exif_rotated

    for orientation in (1, 6):
        data = exif_rotated(orientation)
        assert picture_size(data) == read_picture(data).size
