"""Tiny made-up copies of every data set that a task reads, in the published format."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.evaluation.fakes import shade

BUILDERS: dict[str, Callable[[Path], None]] = {}


def copy_of(*tasks: str) -> Callable[[Any], Any]:
    """Register a function that writes a tiny copy of a data set: two good rows and, where it can, one bad one."""

    def register(build: Callable[[Path], None]) -> Callable[[Path], None]:
        BUILDERS.update(dict.fromkeys(tasks, build))
        return build

    return register


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def pictures(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for at, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shade(20 * at + 30).save(folder / name)


@copy_of("vqav2", "okvqa")
def vqa(root: Path) -> None:
    questions = [{"image_id": n, "question": "What is it?", "question_id": n} for n in (1, 2, 3)]
    answers = [
        {"question_id": n, "multiple_choice_answer": "dog", "answer_type": "other", "question_type": "what",
         "answers": [{"answer": "dog" if k < 9 else "cat", "answer_id": k} for k in range(10)]}
        for n in (1, 2)
    ]  # fmt: skip
    write(root / "v2_OpenEnded_mscoco_val2014_questions.json", {"data_subtype": "val2014", "questions": questions})
    write(root / "v2_mscoco_val2014_annotations.json", {"data_subtype": "val2014", "annotations": answers})
    pictures(root / "val2014", *(f"COCO_val2014_{n:012d}.jpg" for n in (1, 2, 3)))


@copy_of("textvqa")
def textvqa(root: Path) -> None:
    rows = [
        {"question_id": n, "image_id": f"im{n}", "question": "What is written?", "answers": ["stop"] * 10}
        for n in (1, 2)
    ]
    write(root / "TextVQA_0.5.1_val.json", {"data": [*rows, {**rows[0], "question_id": 3, "question": " "}]})
    pictures(root / "train_images", "im1.jpg", "im2.jpg")


@copy_of("vizwiz")
def vizwiz(root: Path) -> None:
    rows = [
        {"image": f"VizWiz_val_{n}.jpg", "question": "What is this?", "answer_type": "other",
         "answers": [{"answer": "soup", "answer_confidence": "yes"}] * 10}
        for n in (1, 2)
    ]  # fmt: skip
    write(root / "val.json", [*rows, {"image": "VizWiz_val_1.jpg", "question": "What?"}])
    pictures(root / "val", "VizWiz_val_1.jpg", "VizWiz_val_2.jpg")


@copy_of("gqa")
def gqa(root: Path) -> None:
    row = {"imageId": "n1", "question": "Is it red?", "answer": "yes", "types": {"structural": "verify"}}
    write(
        root / "testdev_balanced_questions.json", {"1": row, "2": {**row, "imageId": "n2"}, "3": {**row, "answer": ""}}
    )
    pictures(root / "images", "n1.jpg", "n2.jpg")


@copy_of("coco_captions", "coco_retrieval")
def coco(root: Path) -> None:
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in (1, 2, 3)]
    said = [{"id": 10 * n + k, "image_id": n, "caption": f"a dog {n} {k}"} for n in (1, 2) for k in range(5)]
    write(root / "annotations" / "captions_val2017.json", {"images": images, "annotations": said})
    pictures(root / "val2017", *(image["file_name"] for image in images))


@copy_of("flickr30k_captions", "flickr30k_retrieval")
def flickr(root: Path) -> None:
    rows = [
        {"filename": f"{n}.jpg", "split": split, "sentences": [{"raw": f"a man {n} {k}"} for k in range(count)]}
        for n, split, count in ((1, "test", 5), (2, "test", 5), (3, "train", 5), (4, "test", 0))
    ]
    write(root / "dataset_flickr30k.json", {"images": rows, "dataset": "flickr30k"})
    pictures(root / "flickr30k-images", "1.jpg", "2.jpg", "3.jpg")


@copy_of("docvqa")
def docvqa(root: Path) -> None:
    row = {
        "questionId": 1,
        "question": "What is the total?",
        "image": "documents/a.png",
        "answers": ["12.50", "$12.50"],
    }
    rows = [row, {**row, "questionId": 2}, {**row, "questionId": 3, "answers": []}]
    write(root / "val_v1.0_withQT.json", {"data": rows})
    pictures(root / "documents", "a.png")


@copy_of("infovqa")
def infovqa(root: Path) -> None:
    row = {"questionId": 1, "question": "How many?", "image_local_name": "a.png", "answers": ["12"]}
    rows = [row, {**row, "questionId": 2}, {**row, "questionId": 3, "answers": None}]
    write(root / "infographicsVQA_val_v1.0_withQT.json", {"data": rows})
    pictures(root / "infographicsvqa_images", "a.png")


@copy_of("chartqa")
def chartqa(root: Path) -> None:
    row = {"imgname": "a.png", "query": "What is the highest bar?", "label": "12.5"}
    write(root / "test_human.json", [row, {**row, "query": ""}])
    write(root / "test_augmented.json", [{**row, "label": "Asia"}])
    pictures(root / "png", "a.png")


@copy_of("ocrbench")
def ocrbench(root: Path) -> None:
    row = {"dataset_name": "IIIT5K", "type": "Regular Text Recognition", "image_path": "a/1.png",
           "question": "what is written in the image?", "answers": ["CENTRE"]}  # fmt: skip
    formula = {**row, "dataset_name": "HME100k", "answers": "x ^ 2"}
    write(root / "OCRBench.json", [row, formula, {**row, "answers": []}])
    pictures(root / "OCRBench_Images", "a/1.png")


@copy_of("ai2d")
def ai2d(root: Path) -> None:
    told = {"answerTexts": ["bee", "ant", "fly", "bug"], "correctAnswer": 1, "abcLabel": False}
    write(root / "questions" / "1.png.json", {"imageName": "1.png", "questions": {"Which?": told, "What?": told}})
    write(root / "questions" / "2.png.json", {"imageName": "2.png", "questions": {"Which?": {"answerTexts": ["x"]}}})
    write(root / "questions" / "9.png.json", {"imageName": "9.png", "questions": {"Which?": told}})
    write(root / "ai2d_test_ids.csv", "1\n2\n")
    pictures(root / "images", "1.png", "2.png", "9.png")


@copy_of("scienceqa")
def scienceqa(root: Path) -> None:
    row = {"question": "Which is a solid?", "choices": ["air", "rock"], "answer": 1, "hint": "", "image": "image.png",
           "split": "test", "subject": "natural science"}  # fmt: skip
    rows = {"1": row, "2": {**row, "hint": "Look."}, "3": {**row, "image": None}, "4": {**row, "choices": ["air"]}}
    write(root / "problems.json", rows)
    pictures(root / "test", "1/image.png", "2/image.png", "4/image.png")


@copy_of("mmmu")
def mmmu(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = io.BytesIO()
    shade(40).save(data, "PNG")
    picture = {"bytes": data.getvalue(), "path": "1.png"}
    row = {"id": "validation_Math_1", "question": "What is <image 1>?", "options": "['1', '2', '3']", "answer": "B",
           "question_type": "multiple-choice", "image_1": picture}  # fmt: skip
    open_row = {
        **row,
        "id": "validation_Art_Theory_2",
        "options": "[]",
        "answer": "['5', 'five']",
        "question_type": "open",
    }
    folder = root / "Math"
    folder.mkdir(parents=True)
    rows = [row, open_row, {**row, "id": "validation_Math_3", "answer": "?"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "validation-00000-of-00001.parquet")


@copy_of("mmbench")
def mmbench(root: Path) -> None:
    data = io.BytesIO()
    shade(40).save(data, "PNG")
    row = {"index": 7, "question": "Which?", "hint": "", "A": "red", "B": "blue", "C": "", "D": "", "answer": "B",
           "category": "color", "image": base64.b64encode(data.getvalue()).decode()}  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    with (root / "mmbench_dev_en_20231003.tsv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(row), delimiter="\t")
        table.writeheader()
        table.writerows([row, {**row, "index": 8, "answer": ""}])


@copy_of("pope")
def pope(root: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": n,
                "image": "COCO_val2014_000000000001.jpg",
                "text": "Is there a dog in the image?",
                "label": label,
            }
            for n, label in ((1, "yes"), (2, "no"))
        ]
        bad = [{"question_id": 3, "text": "Is there?"}] if split == "random" else []
        write(root / f"coco_pope_{split}.json", lines([*rows, *bad]))
    pictures(root / "val2014", "COCO_val2014_000000000001.jpg")


@copy_of("mme")
def mme(root: Path) -> None:
    asks = "Is this a dog? Please answer yes or no.\tYes\nIs this a cat? Please answer yes or no.\tNo\n"
    for category in ("existence", "commonsense_reasoning"):
        write(root / category / "1.txt", asks)
        pictures(root / category, "1.jpg")
    write(root / "existence" / "2.txt", "Is this a cow?\tmaybe\n")


@copy_of("snli_ve")
def snli_ve(root: Path) -> None:
    row = {
        "Flickr30K_ID": "1",
        "gold_label": "neutral",
        "sentence1": "A man.",
        "sentence2": "He sings.",
        "pairID": "1#0",
    }
    rows = [row, {**row, "gold_label": "entailment", "pairID": "1#1"}, {**row, "gold_label": "-", "pairID": "1#2"}]
    write(root / "snli_ve_dev.jsonl", lines(rows))
    pictures(root / "flickr30k_images", "1.jpg")


@copy_of("nlvr2")
def nlvr2(root: Path) -> None:
    rows = [
        {"identifier": f"dev-1-0-{n}", "sentence": "Both show dogs.", "label": label}
        for n, label in enumerate(("True", "False"))
    ]
    write(root / "dev.json", lines([*rows, {"identifier": "dev-1-0-2", "sentence": "Both."}]))
    pictures(root / "dev", "dev-1-0-img0.png", "dev-1-0-img1.png")


@copy_of("refcoco")
def refcoco(root: Path) -> None:
    refs = [
        {"ref_id": n, "ann_id": 5, "image_id": 1, "split": split, "file_name": "COCO_train2014_000000000001_5.jpg",
         "sentences": [{"sent": "the left dog"}, {"sent": "dog" if n < 3 else ""}]}
        for n, split in ((1, "testA"), (2, "train"), (3, "testB"))
    ]  # fmt: skip
    instances = {"images": [{"id": 1, "file_name": "COCO_train2014_000000000001.jpg"}],
                 "annotations": [{"id": 5, "image_id": 1, "bbox": [1, 2, 6, 8]}]}  # fmt: skip
    write(root / "refs(unc).json", refs)
    write(root / "instances.json", instances)
    pictures(root / "train2014", "COCO_train2014_000000000001.jpg")


@copy_of("charades_sta")
def charades(root: Path) -> None:
    write(
        root / "charades_sta_test.txt",
        "3MSZA 24.3 30.4##person turns a light on.\n3MSZA 0.0 5.0##she sits.\nnonsense\n",
    )


@copy_of("choices", "likelihood")
def own_choices(root: Path) -> None:
    pictures(root, "1.png", "2.png")
    row = {"question": "What is it?", "answer": "dog", "choices": ["cat", "dog"]}
    rows = [{"image": "1.png", **row}, {"image": "2.png", **row}, {"image": "2.png", **row, "question": " "}]
    write(root / "rows.jsonl", lines(rows))


@copy_of("answers")
def own_answers(root: Path) -> None:
    pictures(root, "1.png", "2.png")
    rows = [{"image": f"{n}.png", "question": "What is it?", "answer": "dog"} for n in (1, 2)]
    write(root / "rows.jsonl", lines([*rows, {"image": "1.png", "question": " ", "answer": "dog"}]))


@copy_of("pointing")
def own_boxes(root: Path) -> None:
    pictures(root, "1.png", "2.png")
    row = {"question": "Where is the dog?", "boxes": [{"box": [1, 1, 4, 4], "phrase": "dog"}]}
    rows = [{"image": "1.png", **row}, {"image": "2.png", **row}, {"image": "2.png", **row, "boxes": []}]
    write(root / "rows.jsonl", lines(rows))


@copy_of("captions", "retrieval", "matching", "reranking", "joint_reranking", "judged_retrieval")
def own_captions(root: Path) -> None:
    pictures(root, "1.png", "2.png")
    rows = [{"image": f"{n}.png", "caption": f"a dog {n}"} for n in (1, 2)]
    write(root / "rows.jsonl", lines([*rows, {"image": "1.png", "caption": " "}]))


@copy_of("folders")
def folders(root: Path) -> None:
    pictures(root, "red_dog/1.png", "red_dog/2.png", "cat/1.png")


@copy_of("imagenet")
def imagenet(root: Path) -> None:
    for number in range(1000):
        (root / f"n{number:08d}").mkdir(parents=True)
    pictures(root, "n00000000/a.JPEG", "n00000001/b.JPEG")
