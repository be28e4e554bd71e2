"""Cut-out pictures: stored once, trimmed, exactly as large as asked, in colours that can be told apart."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import SourceError
from chiasm.data.packs import Picture
from chiasm.data.worlds import sprites as module
from chiasm.data.worlds.backgrounds import KINDS, Background, paint
from chiasm.data.worlds.fonts import FACES, SEEN_FACES, UNSEEN_FACES, font
from chiasm.data.worlds.sprites import COLOURS, LEVELS, Sprites, keys_of, tinted

KEYS = ("1F408", "animals/dog")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two packs of one picture each: a wide ellipse off the middle, and a tall one; the list says what was opened."""
    opened: list[str] = []

    class Counted(Picture):
        def open(self, size: int = 320) -> Image.Image:
            opened.append(self.key)
            return Picture.open(self, size)

    def pack(name: str) -> list[Picture]:
        key, shape = (KEYS[0], (40, 60)) if name == "openmoji" else (KEYS[1], (60, 30))
        art = np.zeros((200, 300, 4), np.uint8)
        y, x = np.mgrid[0:200, 0:300]
        art[((y - 90) / shape[0]) ** 2 + ((x - 120) / shape[1]) ** 2 <= 1] = (200, 190, 40, 255)
        path = tmp_path / f"{name}.png"
        Image.fromarray(art, "RGBA").save(path)
        return [Counted(key=f"{name}/{key}", identity="x", pack=name, path=path, caption="A thing.")]

    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "load_pack", pack)
    monkeypatch.setattr(module, "keys_of", lambda art: KEYS if art == "all" else KEYS[:1])
    module._shaped.cache_clear()
    module._large.cache_clear()
    return opened


def test_a_picture_is_decoded_once_for_all_processes(fake: list[str], tmp_path: Path) -> None:
    first = Sprites().cut_out(KEYS[0], 50)
    assert len(fake) == 2
    module._shaped.cache_clear()
    again = Sprites().cut_out(KEYS[0], 50)  # another process would do the same
    assert len(fake) == 2 and again.tobytes() == first.tobytes()
    assert sorted(path.suffix for path in (tmp_path / "cache" / "sprites").iterdir()) == [".json", ".rgba"]


@pytest.mark.parametrize("edge", [9, 50, LEVELS[0], 130, LEVELS[1], 300])
@pytest.mark.parametrize("angle", [0.0, 13.0])
def test_the_longer_visible_side_is_as_asked(fake: list[str], edge: int, angle: float) -> None:
    for key, wide in ((KEYS[0], True), (KEYS[1], False)):
        art = Sprites().cut_out(key, edge, angle=angle, mirrored=True)
        assert max(art.size) == edge and (art.width > art.height) == wide
        alpha = np.asarray(art)[..., 3]
        for side in (alpha[:2], alpha[-2:], alpha[:, :2], alpha[:, -2:]):
            assert side.max() > 24  # scaling may leave a row of hardly covered pixels around it, no more


def test_colours_differ_and_keep_the_shape() -> None:
    grey = np.linspace(0, 255, 64).astype(np.uint8)
    art = np.dstack([np.tile(grey, (64, 1))] * 3 + [np.full((64, 64), 200, np.uint8)])
    means = {}
    for colour in COLOURS:
        painted = np.asarray(tinted(Image.fromarray(art, "RGBA"), colour))
        assert (painted[..., 3] == 200).all()
        means[colour] = painted[:, 40:, :3].mean((0, 1))
        shades = painted[0, :, :3].astype(int).sum(-1)
        assert (np.diff(shades) >= 0).all()
    names = list(means)
    for number, one in enumerate(names):
        assert all(np.abs(means[one] - means[other]).max() > 45 for other in names[:number]), one


def test_without_debians_packages_the_way_out_is_named(fake: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.load_pack

    def unreachable(name: str) -> list[Picture]:
        if name == "stamps":
            raise SourceError("pack_unreachable", "apt-get download failed")
        return whole(name)

    monkeypatch.setattr(module, "load_pack", unreachable)
    with pytest.raises(SourceError, match="pack_unreachable.*art=openmoji"):
        Sprites().cut_out(KEYS[0], 20)
    assert Sprites("openmoji").cut_out(KEYS[0], 20).size[0] == 20
    with pytest.raises(SourceError, match="picture_unknown"):
        Sprites("openmoji").cut_out(KEYS[1], 20)


def test_the_arts_keys() -> None:
    every, pip = keys_of("all"), keys_of("openmoji")
    assert set(pip) < set(every) and not any("/" in key for key in pip) and len(pip) > 300


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_background_is_the_slow_one(kind: str) -> None:
    background = Background(kind=kind, first=(200, 30, 90), second=(20, 220, 140), seed=5, pitch=0.13)
    fast, slow = (np.asarray(image, int) for image in (paint(background, (90, 60)), background.draw((90, 60))))
    assert fast.shape == slow.shape == (60, 90, 3)
    if kind == "noise":
        assert np.abs(fast.mean((0, 1)) - slow.mean((0, 1))).max() < 6 and fast.std() > 20
    else:
        assert np.abs(fast - slow).max() <= 2 or (np.abs(fast - slow).max(-1) > 2).mean() < 0.01


def test_every_font_draws_and_two_are_held_out() -> None:
    assert set(SEEN_FACES) | set(UNSEEN_FACES) == set(FACES) and not set(SEEN_FACES) & set(UNSEEN_FACES)
    widths = {face: font(face, 40).getlength("chiasm 42") for face in FACES}
    assert len(set(widths.values())) == len(FACES) and min(widths.values()) > 60
