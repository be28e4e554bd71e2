"""Packs: pulled with their terms, opened as data sets; WordNet's lines."""

from pathlib import Path

import pytest
from PIL import Image

from chiasm.core.errors import ConfigError, SourceError
from chiasm.core.media import LazyPicture
from chiasm.core.samples import Dataset
from chiasm.data import pack_dataset
from chiasm.data import pull as pulling
from chiasm.data.debian import Deb
from chiasm.data.named import OPENERS, open_named
from chiasm.data.npm import Npm
from chiasm.data.packs import HANDS, Picture, load_pack, split_of
from chiasm.data.pull import ORIGINS, pull
from chiasm.data.text.wordnet import entries


def pictures(root: Path, pack: str = "stamps", count: int = 40) -> list[Picture]:
    found = []
    for number in range(count):
        path = root / f"thing{number}.png"
        Image.new("RGBA", (10 + number, 8), (number, 0, 0, 128)).save(path)
        name = f"{pack}/thing{'abcdefgh'[number % 8] * (1 + number // 8)}"
        found.append(
            Picture(key=f"{pack}/thing{number}", identity=name, pack=pack, path=path, caption=f"A thing {number}.")
        )
    return found


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    source = tmp_path / "source"
    source.mkdir()
    found = pictures(source)
    monkeypatch.setattr(pack_dataset, "load_pack", lambda name: found)
    monkeypatch.setattr(pulling, "load_pack", lambda name: found)
    monkeypatch.setattr(pulling, "deb_files", lambda deb: source)
    return found


def test_a_pack_is_a_data_set_of_bare_pairs(packed: list[Picture]) -> None:
    parts = {split: open_named(f"stamps:{split}") for split in ("train", "val", "test")}
    assert sum(len(part) for part in parts.values()) == 40
    for split, part in parts.items():
        assert isinstance(part, Dataset)
        for sample in part:
            user, said = sample.conversation.messages
            (picture,) = user.parts
            assert isinstance(picture.source, LazyPicture) and picture.source.picture().height == 8
            assert said.text == sample.captions[0] == sample.annotations["answers"][0]
            assert split_of(sample.annotations["identity"]) == split == sample.annotations["split"]
    assert len({part.fingerprint for part in parts.values()}) == 3
    short = open_named("stamps:train?count=3")
    assert [row.key for row in short] == [row.key for row in parts["train"]][:3]
    with pytest.raises(IndexError):
        short[3]
    for wrong in ("stamps:unseen", "stamps:train,naming"):
        with pytest.raises(ConfigError, match="split_unknown"):
            open_named(wrong)


def test_pull_says_what_it_brought_and_can_copy_it(packed: list[Picture], tmp_path: Path) -> None:
    summary = pull("stamps", tmp_path / "mine")
    assert (summary.pictures, summary.captions, sum(summary.splits.values())) == (40, 40, 40)
    assert "GPL" in summary.licence and "tuxpaint" in summary.source and len(summary.sha256[0]) == 64
    assert (tmp_path / "mine" / "thing7.txt").read_text() == "A thing 7.\n"
    assert (tmp_path / "mine" / "thing7.png").read_bytes() == packed[7].path.read_bytes()
    with pytest.raises(ConfigError, match="folder_not_empty"):
        pull("stamps", tmp_path / "mine")
    with pytest.raises(ConfigError, match="clipart, openmoji, noto, .*wordnet"):
        pull("flickr")


def test_every_pack_has_terms_and_pinned_files() -> None:
    assert set(ORIGINS) == {"stamps", "clipart", "openmoji", "wordnet", *HANDS} == {*OPENERS, "wordnet"} - {"scenes"}
    for origin in ORIGINS.values():
        assert origin.licence and origin.source
        assert all(isinstance(each, Deb | Npm) and len(each.sha256) == 64 for each in origin.packages)


def test_openmoji_comes_with_its_wheel_and_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = pull("openmoji")
    assert summary.pictures == len(load_pack("openmoji")) > 2000 and not summary.fetched
    monkeypatch.setattr(pulling, "version", lambda name: "16.0.0")
    with pytest.raises(SourceError, match="16.0.0, the pinned one is 17.0.0"):
        pull("openmoji")


def test_wordnet_lines(tmp_path: Path) -> None:
    lines = [
        "  1 This software and database is being provided to you",
        '00001740 03 n 02 hot_dog 0 red_hot 0 001 ~ 00001930 n 0000 | a sausage; in a bun; "a hot dog, please"; "two!"',
    ]
    (tmp_path / "data.noun").write_text("\n".join(lines) + "\n")
    (tmp_path / "data.adj").write_text('00002 00 a 01 able(p) 0 000 | having the means; "able to swim"\n')
    for part in ("verb", "adv"):
        (tmp_path / f"data.{part}").write_text("")
    first, second = entries(tmp_path)
    assert first.words == ("hot dog", "red hot") and first.part == "noun"
    assert first.definition == "a sausage; in a bun" and first.examples == ("a hot dog, please", "two!")
    assert second.words == ("able",) and second.examples == ("able to swim",)
