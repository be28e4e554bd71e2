"""Captions shuffled on purpose: how many, whose, and that nothing else changes."""

from __future__ import annotations

import pytest

from chiasm.core.errors import ConfigError
from chiasm.data.open import open_dataset
from chiasm.data.shuffling import Shuffled
from chiasm.recipes.run import Source
from chiasm.recipes.running.standard import _open

DATA = "scenes:train:captions?size=96&count=400"


def test_the_share_is_wrong_and_the_pictures_stay() -> None:
    base = open_dataset(DATA)
    made = _open(Source(name=DATA, shuffled=0.4))
    assert isinstance(made, Shuffled) and len(made) == 400 and made.fingerprint != base.fingerprint
    wrong = [index for index in range(400) if made.is_wrong(index)]
    assert 130 <= len(wrong) <= 190
    for index in (*wrong[:20], *(set(range(60)) - set(wrong))):
        source, row = base[index], made[index]
        assert row.key == source.key and list(row.conversation.images()) == list(source.conversation.images())
        donor = base[made.donor(index)] if index in wrong else source
        assert made.donor(index) != index and row.captions == donor.captions
        assert row.conversation.messages[-1].text == donor.conversation.messages[-1].text
    assert made[-1].key == base[399].key
    assert [Shuffled(base, 0.4).is_wrong(i) for i in range(400)] == [made.is_wrong(i) for i in range(400)]
    assert not any(Shuffled(base, 0.0).is_wrong(i) for i in range(400))
    assert all(Shuffled(base, 1.0).is_wrong(i) for i in range(400))


def test_what_can_not_be_shuffled() -> None:
    with pytest.raises(ConfigError, match=r"1\.5"):
        Shuffled(open_dataset(DATA), 1.5)
    with pytest.raises(ConfigError, match="1 row"):
        Shuffled(open_dataset("scenes:train:captions?size=96&count=1"), 0.5)
