"""WebDataset shards: whole ones, fifty broken ones, and the index that makes every sample one read away."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path

import pytest
from tests.data.broken_shards import Piece, broken_shards, build, picture

from chiasm.core.errors import ChiasmError, DataError
from chiasm.core.samples import Dataset, Sample
from chiasm.data import tars
from chiasm.data.check import check
from chiasm.data.loader import BadRow, Loader
from chiasm.data.open import expand, open_dataset
from chiasm.data.rows import Fault, place_of, readable_rows
from chiasm.data.skips import write_skips
from chiasm.processing.pictures import read_picture


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))


def shard(path: Path, count: int = 4, prefix: str = "", seed: int = 0) -> Path:
    groups = [
        [Piece(f"{prefix}{i:03d}.jpg", picture(seed + i)), Piece(f"{prefix}{i:03d}.txt", f"{path.stem} {i}".encode())]
        for i in range(count)
    ]
    path.write_bytes(build(groups, [], []).data)
    return path


def with_pictures(dataset: Dataset) -> tuple[list[Sample], list[Fault]]:
    """Every sample that can be read, pictures too, and everything else."""
    rows, faults = readable_rows(dataset)
    good = []
    for sample in rows:
        try:
            for part in sample.conversation.images():
                read_picture(part.source)
            good.append(sample)
        except ChiasmError as error:
            faults.append(Fault(sample.place, error.code, error.what))
    return good, faults


def test_fifty_broken_shards_give_every_good_sample_once_and_report_the_rest(tmp_path: Path) -> None:
    shards = broken_shards(50)
    for number, made in enumerate(shards):
        (tmp_path / f"s-{number:03d}.tar").write_bytes(made.data)
    start = time.perf_counter()
    dataset = open_dataset(f"{tmp_path}/s-{{000..049}}.tar")
    good, faults = with_pictures(dataset)
    assert time.perf_counter() - start < 30
    wanted = [f"s-{number:03d}/{key}" for number, made in enumerate(shards) for key in made.good]
    assert [sample.key for sample in good] == wanted and len(wanted) > 200
    reported = sorted((Path(fault.place.source).stem, str(fault.place.row), fault.code) for fault in faults)
    expected = sorted((f"s-{number:03d}", key, code) for number, made in enumerate(shards) for key, code in made.report)
    assert reported == expected and len({code for *_, code in expected}) >= 9
    captions = [sample.captions[0].split()[1:3] for sample in good]
    assert [f"{int(a):02d}{int(b):03d}" for a, b in captions] == [sample.key[6:] for sample in good]


@pytest.mark.parametrize("seed", range(1, 7))
def test_each_broken_shard_alone(tmp_path: Path, seed: int) -> None:
    for number, made in enumerate(broken_shards(33, seed)):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(made.data)
        good, faults = with_pictures(open_dataset(path))
        # alone, a shard in which nothing but lone pictures is left counts those as pictures without words
        if made.good:
            assert [sample.place.row for sample in good] == made.good, number
            assert sorted((str(fault.place.row), fault.code) for fault in faults) == sorted(made.report), number


def test_any_position_is_one_read_away_and_reading_twice_is_the_same(tmp_path: Path) -> None:
    dataset = open_dataset(shard(tmp_path / "a.tar", 6))
    assert [dataset[i].captions[0] for i in (5, 0, 3, -1)] == ["a 5", "a 0", "a 3", "a 5"]
    assert dataset[2] == dataset[2]
    place = place_of(dataset, 2)
    data = (tmp_path / "a.tar").read_bytes()
    assert place.offset is not None and data[place.offset : place.offset + 3] == b"\xff\xd8\xff"
    with pytest.raises(IndexError):
        dataset[6]


def test_the_index_is_kept_and_rebuilt_when_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(tmp_path / "a.tar", 3)
    first = open_dataset(path)
    walks: list[Path] = []
    real = tars._Walk.run
    monkeypatch.setattr(tars._Walk, "run", lambda self: (walks.append(self.path), real(self))[1])
    again = open_dataset(path)
    assert not walks and again.fingerprint == first.fingerprint and list(again) == list(first)
    shard(path, 3, seed=50)
    changed = open_dataset(path)
    assert walks and changed.fingerprint != first.fingerprint
    kept = list((tmp_path / "cache" / "indexes").glob("tar-*.npz"))
    for file in kept:
        file.write_bytes(file.read_bytes()[:50])
    assert len(open_dataset(path)) == 3  # a damaged cache is made again


def test_keys_stay_unique_over_shards_and_the_fingerprint_travels(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        shard(tmp_path / folder / "a.tar", 2)
        shard(tmp_path / folder / "b.tar", 2)
    dataset = open_dataset([tmp_path / "x" / "a.tar", tmp_path / "x" / "b.tar"])
    assert len({sample.key for sample in dataset}) == 4
    one, other = open_dataset(f"{tmp_path}/x/{{a,b}}.tar"), open_dataset(f"{tmp_path}/y/{{a,b}}.tar")
    assert one.fingerprint == other.fingerprint
    same = open_dataset(f"{tmp_path}/{{x,y}}/a.tar")
    assert [sample.key for sample in same] == ["x/a/000", "x/a/001", "y/a/000", "y/a/001"]


def test_weights_and_sums(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", 2)
    shard(tmp_path / "b.tar", 1)
    dataset = open_dataset(f"2*{tmp_path}/a.tar + {tmp_path}/b.tar")
    assert [sample.annotations.get("weight", 1.0) for sample in dataset] == [2.0, 2.0, 1.0]
    assert [sample.key for sample in dataset] == ["a/a/000", "a/a/001", "b/b/000"]


def test_braces() -> None:
    assert expand("s-{008..011}.tar") == [f"s-{n:03d}.tar" for n in range(8, 12)]
    assert expand("{a,b}-{1..2}") == ["a-1", "a-2", "b-1", "b-2"]
    with pytest.raises(DataError, match="more than 1,000,000"):
        expand("{0..999999999}")


def test_a_missing_shard_of_a_range_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "s-0.tar")
    with pytest.raises(DataError, match=r"s-1\.tar does not exist"):
        open_dataset(f"{tmp_path}/s-{{0..1}}.tar")


@pytest.mark.parametrize("spec", ["pipe:cat /etc/passwd", "https://example.org/a.tar", "pipe:touch {marker}"])
def test_commands_and_addresses_are_never_opened(tmp_path: Path, spec: str) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(DataError) as caught:
        open_dataset(spec.format(marker=marker))
    assert caught.value.code == "data_remote" and not marker.exists()


def test_compressed_shards_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    with pytest.raises(DataError) as caught:
        open_dataset(path)
    assert caught.value.code == "tar_compressed" and "gzip -d" in str(caught.value)


def test_a_shard_that_shrank_after_it_was_opened(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", 3)
    dataset = open_dataset(path)
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(DataError) as caught:
        dataset[2]
    assert caught.value.code == "data_changed" and "row 002" in str(caught.value)


def test_long_names_and_pax_sizes(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        key = "folder/" + "ä" * 90 + "n" * 60
        with tarfile.open(path, "w", format=form) as tar:
            for ending, data in (("jpg", picture(1)), ("txt", b"long")):
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        (sample,) = open_dataset(path)
        assert sample.place.row == key and sample.captions == ("long",)


def test_a_long_name_header_without_end_is_no_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = b"L", 2**40
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + shard(tmp_path / "b.tar", 2).read_bytes())
    dataset = open_dataset(path)
    assert len(dataset) == 2 and [fault.code for fault in dataset.faults] == ["tar_damaged"]


def test_what_is_no_sample_is_left_alone(tmp_path: Path) -> None:
    extra = [
        Piece("README", b"hello"),
        Piece("._000.jpg", b"mac"),
        Piece("__meta__.json", b"{}"),
        Piece("000.pyd", b"\x80\x04."),
    ]
    groups = [[Piece("000.jpg", picture(1)), Piece("000.txt", b"kept")], extra]
    (tmp_path / "a.tar").write_bytes(build(groups, [], []).data)
    dataset = open_dataset(tmp_path / "a.tar")
    assert len(dataset) == 1 and dataset.faults == () and dataset[0].captions == ("kept",)


def test_records_in_a_shard(tmp_path: Path) -> None:
    record = b'{"messages": [{"role": "user", "content": [{"type": "image", "path": "1.jpg"}, {"type": "image", '
    record += b'"path": "0.jpg"}, {"type": "text", "text": "which?"}]}, {"role": "assistant", "content": "the first"}]}'
    llava = b'{"conversations": [{"from": "human", "value": "<image>\\nwhat?"}, {"from": "gpt", "value": "this"}]}'
    meta = b'{"url": "https://example.org/x.jpg", "caption": "from the record", "key": "2"}'
    groups = [
        [Piece("0.0.jpg", picture(0)), Piece("0.1.jpg", picture(1)), Piece("0.json", record)],
        [Piece("1.jpg", picture(2)), Piece("1.json", llava)],
        [Piece("2.jpg", picture(3)), Piece("2.json", meta)],
        [Piece("3.jpg", picture(4)), Piece("3.cls", b"7")],
    ]
    (tmp_path / "a.tar").write_bytes(build(groups, [], []).data)
    both, one, pair, label = open_dataset(tmp_path / "a.tar")
    assert [part.source.member for part in both.conversation.images()] == ["0.1.jpg", "0.0.jpg"]
    assert [message.text for message in one.conversation.messages] == ["what?", "this"]
    assert pair.captions == ("from the record",) and next(pair.conversation.images()).source.member == "2.jpg"
    assert label.annotations["label"] == 7 and label.conversation.messages[-1].text == "7"


def test_training_hears_of_what_never_became_a_row(tmp_path: Path) -> None:
    groups = [[Piece(f"{i:03d}.jpg", picture(i)), Piece(f"{i:03d}.txt", b"ok")] for i in range(20)]
    for piece in groups[3]:
        piece.name = "../" + piece.name
    (tmp_path / "a.tar").write_bytes(build(groups, [], []).data)
    dataset = open_dataset(tmp_path / "a.tar")
    told: list[BadRow] = []
    loader = Loader(dataset, list, batch_size=4, max_bad=0.1, report=told.append)
    assert [(str(row.place.row), row.code) for row in told] == [("../003", "name_unsafe")] and len(loader(0)) == 4
    with pytest.raises(DataError, match="1 of 19 rows are bad, at most 1.00% may be"):
        Loader(dataset, list, batch_size=4)
    report = check(dataset)
    write_skips(tmp_path / "bad", dataset, ({"index": row.index, **row.to_json()} for row in report.bad))
    assert Loader(open_dataset(tmp_path / "a.tar", skip=tmp_path / "bad"), list, batch_size=4).bad == []
