"""The recipe's parts that need no tower: what is learned and what is held out, views and wordings."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from chiasm.data import packs
from chiasm.data.npm import CODES
from chiasm.data.packs import HANDS, Picture, hand_in, load_pack
from chiasm.recipes.nano_dual import NanoDualHeads, Pack
from chiasm.recipes.trainings import nano_dual as training
from chiasm.recipes.trainings.nano_dual import class_names, draw_views, training_pictures, wordings

# OpenMoji's part of the held-out things, 221 emoji: every published figure was measured on these.
HELD_OUT = "efd6fc75703b185ae18fdca6f21ed96460d9acb468c009138fd72e2f56ef38de"


def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "nano_dual.py"
    spec = importlib.util.spec_from_file_location("nano_dual_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_held_out_things_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    module = benchmark(monkeypatch)
    monkeypatch.setattr(module, "load_pack", lambda name: load_pack(name) if name == "openmoji" else [])
    things = module.gallery("test")
    listed = hashlib.sha256("\n".join(f"{thing.key} {thing.caption}" for thing in things).encode()).hexdigest()
    assert len(things) == 221 and listed == HELD_OUT


def test_no_hand_teaches_a_held_out_emoji(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hand that draws everything, skin tones and all; what is learned of it is OpenMoji's training entries."""
    emoji = load_pack("openmoji")
    (tmp_path / CODES).write_text("{}")
    for picture in emoji:
        for name in (packs._slug(picture.caption), f"{packs._slug(picture.caption)}-dark-skin-tone"):
            (tmp_path / f"{name}.svg").write_text("<svg/>")
    monkeypatch.setattr(training, "load_pack", lambda name: hand_in(tmp_path, name, emoji))
    task = NanoDualHeads(packs=tuple(Pack(name=name, views=1, copies=3) for name in HANDS))
    learned, things = training_pictures(task), {picture.identity for picture in emoji if picture.split == "test"}
    assert len(learned) > 1000 * len(HANDS) and {picture.pack for picture in learned} == set(HANDS)
    assert not [picture.key for picture in learned if picture.identity in things or picture.split == "test"]
    entries = {picture.path.stem: picture for picture in emoji}
    for picture in learned:
        entry = entries[picture.key.partition("/")[2]]
        assert (picture.identity, picture.caption) == (entry.identity, entry.caption)


def stamp(folder: Path, **more: object) -> Picture:
    path = folder / "kite.png"
    Image.new("RGBA", (60, 30), (200, 10, 10, 255)).save(path)
    fields = {"key": "stamps/kite", "identity": "stamps/kite", "pack": "stamps", "caption": "A kite.", **more}
    return Picture(path=path, **fields)  # type: ignore[arg-type]


def test_views_depend_on_the_key_alone_and_the_first_is_plain(tmp_path: Path) -> None:
    views, again = (draw_views(stamp(tmp_path), 4, 64) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(views, again, strict=True))
    assert all(view.size == (64, 64) and view.mode == "RGB" for view in views)
    plain = np.asarray(views[0])
    assert (plain[:12] == 255).all() and (plain[-12:] == 255).all() and (plain[32] == (200, 10, 10)).all()
    other = draw_views(stamp(tmp_path, key="stamps/other"), 2, 64)
    assert np.array_equal(other[0], views[0]) and not np.array_equal(other[1], views[1])
    assert np.array_equal(draw_views(stamp(tmp_path), 2, 64)[1], views[1])


def test_wordings_name_the_kind_and_use_keywords(tmp_path: Path) -> None:
    assert wordings(stamp(tmp_path, kind="photo")) == ["A kite.", "kite", "a photo of a kite", "a photo of a kite"]
    texts = wordings(stamp(tmp_path, keywords=("toy", "sky")))
    assert texts[3:] == ["a drawing of a kite", "toy, sky", "kite, toy, sky"]


def test_a_thousand_class_names() -> None:
    names = class_names()
    assert len(names) == 1000 and names[0] == "tench" and all(names)
