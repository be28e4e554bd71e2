"""The recipe's parts that need no tower: views, wordings, and batches that depend on their number alone."""

from pathlib import Path

import numpy as np
from PIL import Image

from chiasm.data.packs import Picture
from chiasm.recipes.trainings.nano_dual import class_names, draw_views, wordings


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
