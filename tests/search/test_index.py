"""The index alone, with a model that embeds by colour."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.search.conftest import Colours

from chiasm.cli.bulk import listed_pictures
from chiasm.core.errors import ChiasmError
from chiasm.search import adding
from chiasm.search.adding import Adding, File, named_files
from chiasm.search.index import About, PictureIndex, Row, probed, row_id


def new_index(folder: Path, model: Colours) -> PictureIndex:
    return PictureIndex.create(folder, About("colours", probed(model)))


def add(index: PictureIndex, model: Colours, folder: Path) -> tuple[list[File], list[tuple[File, ChiasmError]]]:
    stored: list[File] = []
    refused: list[tuple[File, ChiasmError]] = []
    files = named_files(listed_pictures([str(folder)]), folder)
    Adding(index, model, stored.append, lambda file, error: refused.append((file, error))).run(files)
    return stored, refused


def row(name: str, vector: np.ndarray) -> Row:
    return Row(row_id(name), name, name, (3, 2), 10, 20, vector)


def test_search_is_what_comparing_every_vector_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = PictureIndex.create(tmp_path / "index", About("random", vectors[:2]))
    for start in range(0, 3000, 500):
        index.put([row(f"/{number}", vectors[number]) for number in range(start, start + 500)])
    index.tidy()
    assert len(index) == 3000
    for query in rng.standard_normal((20, 24)).astype(np.float32):
        scores = vectors @ query
        hits = PictureIndex(tmp_path / "index").search(query, 50)
        assert [hit.path for hit in hits] == [f"/{number}" for number in np.argsort(-scores)[:50]]
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:50], atol=2e-6)


def test_a_folder_is_found_and_not_read_again(tmp_path: Path, pictures: Path, colours: Colours) -> None:
    index = new_index(tmp_path / "index", colours)
    stored, refused = add(index, colours, pictures)
    assert len(index) == len({file.id for file in stored}) == 40 and not refused
    for file in stored:
        best = index.search(colours.embed_images([file.path])[0], 1)[0]
        assert (best.id, best.path, best.name, best.size) == (file.id, file.path, file.name, (12, 9))
        assert best.score == pytest.approx(1, abs=1e-6) and best.path == str(pictures / best.name)

    class Blind(Colours):
        def embed_images(self, images: object) -> np.ndarray:
            raise AssertionError("nothing has changed")

    again, _ = add(PictureIndex(tmp_path / "index"), Blind(), pictures)
    assert {file.id for file in again} == {file.id for file in stored}


def test_what_changes_on_disk_changes_in_the_index(tmp_path: Path, pictures: Path, colours: Colours) -> None:
    index = new_index(tmp_path / "index", colours)
    first, second, third = add(index, colours, pictures)[0][:3]
    Image.new("RGB", (5, 4), (255, 0, 0)).save(first.path)
    Path(second.path).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    os.unlink(third.path)
    stored, refused = add(index, colours, pictures)
    red = index.search(colours.embed_images([Image.new("RGB", (1, 2), (255, 0, 0))])[0], 1)[0]
    assert (red.id, red.size) == (first.id, (5, 4))
    assert [file.id for file, _ in refused] == [second.id] and len(stored) == 38
    # What can't be read is out; what is gone stays until it is removed.
    assert second.id not in index.known() and third.id in index.known() and len(index) == 39
    assert index.remove([third.id, third.id, "nothing", "x' OR '1'='1"]) == 1
    assert len(PictureIndex(tmp_path / "index")) == 38


def test_a_bad_picture_harms_no_other(tmp_path: Path, pictures: Path, colours: Colours) -> None:
    (pictures / "bad.jpg").write_bytes(b"no picture")
    (pictures / "empty.png").touch()
    Image.new("RGB", (1, 1)).save(pictures / "unwanted.png")  # can be read, the model refuses it
    stored, refused = add(new_index(tmp_path / "index", colours), colours, pictures)
    assert len(stored) == 40 and sorted(file.name for file, _ in refused) == ["bad.jpg", "empty.png", "unwanted.png"]


def test_commits_grow_with_the_index(
    tmp_path: Path, pictures: Path, colours: Colours, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks through all that earlier ones left: of one size, they would take a time that grows with the square."""
    monkeypatch.setattr(adding, "BATCH", 2)
    monkeypatch.setattr(adding, "SHARE", 4)
    index, sizes, put = new_index(tmp_path / "index", colours), [], PictureIndex.put
    monkeypatch.setattr(PictureIndex, "put", lambda self, rows: (sizes.append(len(rows)), put(self, rows)))
    stored, _ = add(index, colours, pictures)
    assert sum(sizes) == len(stored) == len(index) == 40
    assert sizes[0] == 2 and max(sizes) >= 8 and len(sizes) <= 12


def test_names_are_one_line_and_paths_are_exact(tmp_path: Path, colours: Colours) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"new\nline.png", b"\xff\xfe.png", "ü ’.png".encode()):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            Image.new("RGB", (4, 4), (len(name), 9, 80)).save(file, "PNG")
    index = new_index(tmp_path / "index", colours)
    stored, refused = add(index, colours, folder)
    assert not refused and {file.name for file in stored} == {"new\ufffdline.png", "??.png", "ü ’.png"}
    assert all(os.path.exists(path) for path in index.paths().values())


def test_another_model_is_refused(tmp_path: Path, colours: Colours) -> None:
    about = new_index(tmp_path / "index", colours).about
    about.check(probed(colours), "the same")
    turned = probed(colours)[:, ::-1]
    with pytest.raises(ChiasmError, match=r"index_model.*colours.*cosine of 0\.\d+, the least is 0.98"):
        about.check(turned, "other")
    with pytest.raises(ChiasmError, match="3 numbers, those of other 5"):
        about.check(np.zeros((2, 5), np.float32), "other")


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    vectors = np.eye(8, dtype=np.float32)
    PictureIndex.create(tmp_path / "index", About("eight", vectors[:2]))

    def write(start: int) -> None:
        index = PictureIndex(tmp_path / "index")
        for number in range(start, start + 15):
            index.put([row(f"/{number}", vectors[number % 8])])

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 15, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = PictureIndex(tmp_path / "index").known()
    assert set(known) == {row_id(f"/{number}") for number in range(45)}


def test_two_writers_of_the_same_pictures_leave_one_row_each(tmp_path: Path) -> None:
    vectors, start, lost = np.eye(8, dtype=np.float32), threading.Barrier(2), []
    PictureIndex.create(tmp_path / "index", About("eight", vectors[:2]))

    def write() -> None:
        index = PictureIndex(tmp_path / "index")
        for number in range(8):
            start.wait(60)
            index.put([row(f"/{number}", vectors[number])])
            start.wait(60)
            lost.append(index.remove([row_id(f"/{number}")]) if number % 2 else 0)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    index = PictureIndex(tmp_path / "index")
    assert len(index) == len(index.known()) == 4 and sum(lost) == 4


def test_two_that_make_one_index_with_different_models_do_not_mix(tmp_path: Path) -> None:
    vectors, start, told = np.eye(4, dtype=np.float32), threading.Barrier(2), []

    def make(number: int) -> None:
        start.wait(60)
        try:
            PictureIndex.create(tmp_path / "index", About(str(number), vectors[number : number + 2]))
            told.append(str(number))
        except ChiasmError as error:
            told.append(error.code)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told)[1] in ("index_model", "index_exists")
    assert PictureIndex(tmp_path / "index").about.model == sorted(told)[0]


HARM: dict[str, tuple[str, str, str]] = {
    "no description": ("index.json", "", "index_missing"),
    "half a description": ("index.json", "{", "index_unreadable"),
    "another layout": ("index.json", '{"layout": 9, "model": "", "probe": []}', "index_unreadable"),
    "not a description": ("index.json", "[1]", "index_unreadable"),
    "too deep a description": ("index.json", "[" * 100_000, "index_unreadable"),
    "too large a number": (
        "index.json",
        f'{{"layout": 1, "model": "", "probe": [[1{"0" * 400}], [1]]}}',
        "index_unreadable",
    ),
    "the table's versions": ("*.manifest", "x", "index_unreadable"),
    "no versions": ("*.manifest", "", "index_unreadable"),
    "the table's rows": ("data/*.lance", "x", "index_unreadable"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_index_is_told(tmp_path: Path, harm: str) -> None:
    vectors = np.eye(8, dtype=np.float32)
    PictureIndex.create(tmp_path / "index", About("eight", vectors[:2])).put([row("/a", vectors[0])])
    pattern, content, code = HARM[harm]
    files = list((tmp_path / "index").rglob(pattern))
    assert files
    for file in files:
        file.write_text(content) if content else file.unlink()
    with pytest.raises(ChiasmError) as told:
        PictureIndex(tmp_path / "index").search(vectors[0], 3)
    assert told.value.code == code and "\n" not in told.value.what


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, colours: Colours) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ChiasmError, match="index_exists"):
        new_index(tmp_path, colours)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
