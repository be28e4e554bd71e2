"""Packs: labels, identities, the split, and an unpacker that writes nowhere but in its folder."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from chiasm.core.errors import ConfigError, PictureError, SourceError
from chiasm.data import debian, packs
from chiasm.data.debian import Deb, deb_files, unpack_deb
from chiasm.data.npm import CODES
from chiasm.data.packs import Picture, clipart_in, hand_in, load_pack, openmoji_in, split_of, stamps_in

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 40"><rect width="10" height="40" fill="#f00"/></svg>'


def png(path: Path, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", size, (10, 200, 30, 128)).save(path)


def ar(members: dict[str, bytes]) -> bytes:
    body = b"!<arch>\n"
    for name, data in members.items():
        body += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
        body += b"\n" if len(data) % 2 else b""
    return body


def deb(names: list[str], *, kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "/etc/passwd", 3 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"abc"))
    return ar({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": stream.getvalue()})


@pytest.mark.parametrize(
    ("caption", "label"),
    [
        ("A koala.", "koala"),
        ("Some cherries.", "cherries"),
        ("A computer mouse. Squeak!", "computer mouse"),
        ("Saturn—the second largest planet", "Saturn"),
        ("flag: Canada", "flag: Canada"),
        ("A pair of sunglasses.", "sunglasses"),
    ],
)
def test_label_is_the_bare_name(caption: str, label: str) -> None:
    assert Picture(key="k", identity="i", pack="p", path=Path("x"), caption=caption).label == label


def test_variants_share_an_identity_and_so_a_split(tmp_path: Path) -> None:
    for name in ("animals/cat.png", "animals/cat_mirror.png", "animals/black-cat.png", "toys/feline2.png", "dog.png"):
        png(tmp_path / name)
    (tmp_path / "animals/cat.txt").write_text("A cat.\nde.utf8=Eine Katze.\n")
    (tmp_path / "toys/feline2.txt").write_text("A cat.\n")
    found = {picture.key: picture for picture in stamps_in(tmp_path)}
    cats = {found[k].identity for k in found if k != "stamps/dog"}
    assert len(found) == 5 and len(cats) == 1 and found["stamps/dog"].identity not in cats
    assert found["stamps/animals/cat_mirror"].caption == "A cat." and found["stamps/dog"].caption == "dog"


def test_split_is_fixed_by_the_name_alone() -> None:
    splits = [split_of(f"pack/{i}") for i in range(4000)]
    assert 0.16 < splits.count("test") / 4000 < 0.20 and 0.05 < splits.count("val") / 4000 < 0.09
    assert [split_of(f"stamps/{name}") for name in ("koala", "zebra", "apple")] == ["test", "train", "train"]


def test_openmoji_names_gender_flags_and_hours(tmp_path: Path) -> None:
    for code in ("1F3C3", "1F3C3-200D-2640-FE0F", "1F1E8-1F1E6", "1F1E9-1F1EA", "1F550", "1F551", "1F428"):
        (tmp_path / f"{code}.svg").write_text(SVG)
    by_code = {picture.path.stem: picture for picture in openmoji_in(tmp_path)}
    assert by_code["1F3C3"].identity == by_code["1F3C3-200D-2640-FE0F"].identity
    assert by_code["1F1E8-1F1E6"].identity == by_code["1F1E9-1F1EA"].identity
    assert by_code["1F550"].identity == by_code["1F551"].identity
    assert by_code["1F428"].caption == "koala" and "australia" in by_code["1F428"].keywords


def test_another_hand_takes_the_identity_of_the_emoji_it_draws(tmp_path: Path) -> None:
    codes = ("1F428", "1F3C3", "1F3C3-200D-2640-FE0F", "1F452", "1F344")
    for code in codes:
        (tmp_path / f"{code}.svg").write_text(SVG)
    entries = {picture.path.stem: picture for picture in openmoji_in(tmp_path)}
    by_code, by_name = tmp_path / "by_code", tmp_path / "by_name"
    for folder in (by_code, by_name):
        folder.mkdir()
        for name in ("bear-of-trees", "koala", "womans-hat", "koala-dark-skin-tone", "runner-girl"):
            (folder / f"{name}.svg").write_text(SVG)
    (by_name / CODES).write_text("{}")
    (by_code / CODES).write_text('{"1f428": "bear-of-trees", "1f3c3-200d-2640": "runner-girl", "1f344": "gone"}')
    found = {picture.key: picture for picture in hand_in(by_code, "noto", entries.values())}
    assert set(found) == {"noto/1F428", "noto/1F3C3-200D-2640-FE0F"}
    for key, picture in found.items():
        entry = entries[key.removeprefix("noto/")]
        assert (picture.identity, picture.split, picture.caption) == (entry.identity, entry.split, entry.caption)
        assert picture.pack == "noto" and picture.path.parent == by_code
    assert {picture.key for picture in hand_in(by_name, "v1", entries.values())} == {"v1/1F428", "v1/1F452"}


def test_clipart_prefers_file_names_to_collection_titles(tmp_path: Path) -> None:
    metadata = "<svg><metadata><dc:title>{}</dc:title><rdf:li>toy</rdf:li><rdf:li> toy </rdf:li></metadata></svg>"
    for i in range(6):
        png(tmp_path / f"png/a/thing{'abcdef'[i]}_01.png")
        (tmp_path / "svg/a").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"svg/a/thing{'abcdef'[i]}_01.svg").write_text(metadata.format("A theme" if i else "Kite"))
    captions = [picture.caption for picture in clipart_in(tmp_path / "png", tmp_path / "svg")]
    assert captions == ["Kite", "thingb", "thingc", "thingd", "thinge", "thingf"]


def test_open_gives_rgba_at_the_asked_size(tmp_path: Path) -> None:
    (tmp_path / "tall.svg").write_text(SVG)
    png(tmp_path / "big.png", (800, 400))
    tall, big, bad = (
        Picture(key=n, identity=n, pack="p", path=tmp_path / n, caption=n) for n in ("tall.svg", "big.png", "bad.png")
    )
    assert (tall.open(80).size, tall.open(80).mode) == ((20, 80), "RGBA")
    assert big.open(200).size == (200, 100)
    bad.path.write_text("no picture")
    with pytest.raises(PictureError, match="picture_unreadable"):
        bad.open()


def test_unpack_keeps_wanted_regular_files_only(tmp_path: Path) -> None:
    archive = tmp_path / "x.deb"
    names = ["./usr/share/a/one.png", "usr/share/a/two.ogg", "/usr/share/a/abs.png", "usr/share/a/../../../up.png"]
    archive.write_bytes(deb(names))
    assert unpack_deb(archive, tmp_path / "out", prefix="usr/share/a", suffixes=(".png",)) == 1
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["one.png"]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        archive.write_bytes(deb(["usr/share/a/link.png"], kind=kind))
        with pytest.raises(SourceError, match="empty_pack"):
            unpack_deb(archive, tmp_path / "links", prefix="usr/share/a", suffixes=(".png",))


@pytest.mark.parametrize("cut", [4, 60, -9])
def test_broken_archives_are_refused(tmp_path: Path, cut: int) -> None:
    archive = tmp_path / "x.deb"
    archive.write_bytes(deb(["usr/share/a/one.png"])[:cut])
    with pytest.raises(SourceError, match="not_a_deb"):
        unpack_deb(archive, tmp_path / "out", prefix="usr/share/a", suffixes=(".png",))


def test_deb_files_come_from_the_cache_and_must_be_the_pinned_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path))
    kept = tmp_path / "debs" / "toy_1_all.deb"
    kept.parent.mkdir()
    kept.write_bytes(deb(["usr/share/toy-pack/one.png"]))
    pin = Deb(package="toy", sha256=debian._sha256(kept), prefix="usr/share/toy-pack", suffixes=(".png",))
    root = deb_files(pin)
    assert (root / "one.png").read_bytes() == b"abc" and deb_files(pin) == root
    assert not list((tmp_path / "packs").glob(".fetch-*"))

    def fetch(command: list[str], cwd: Path, **_: object) -> object:
        (cwd / "toy_2_all.deb").write_bytes(deb(["usr/share/toy-pack/other.png"]))
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(debian.subprocess, "run", fetch)
    with pytest.raises(SourceError, match="pack_changed"):
        deb_files(Deb(package="toy", sha256="0" * 64, prefix="usr/share/toy-pack", suffixes=(".png",)))


def test_an_unknown_pack_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="clipart, .*openmoji, stamps"):
        load_pack("flickr")
    assert set(packs.PACKS) == {"stamps", "clipart", "openmoji", *packs.HANDS}
