"""Tables and lists of pairs and of conversations are recognised by their content and read whole."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from tests.data.broken_shards import picture
from tests.data.reading import code_of, lines, sizes, texts

from chiasm.core.errors import DataError
from chiasm.core.messages import ImagePart, TextPart
from chiasm.data.open import open_dataset

pytestmark = pytest.mark.usefixtures("own_cache")
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
