"""Pairs made wrong on purpose: a share of the rows says what another row's picture shows.

What a loss does on noisy captions can then be measured against a known amount of noise. Which rows, and whose words
they get, follow from the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation
from chiasm.core.samples import Dataset, Place, Sample
from chiasm.data.order import Permutation, mixed
from chiasm.data.rows import Fault, place_of
from chiasm.data.stamps import digest_of


class Shuffled:
    """A data set in which some rows have the words of another.

    Args:
        base: pairs of pictures and captions, two or more.
        share: of the rows, 0 to 1.
        seed: chooses them.

    Raises:
        ConfigError: a share outside its range, or a single row.
    """

    def __init__(self, base: Dataset, share: float, seed: int = 0) -> None:
        if not 0 <= share <= 1:
            raise ConfigError("setting_range", f"a share of {share} captions to shuffle lies outside 0 to 1")
        if share and len(base) < 2:
            raise ConfigError("setting_range", f"captions of {len(base)} row can't be shuffled, at least 2 are needed")
        self.base, self.share, self.seed, self.name = base, share, seed, base.name
        self.faults: tuple[Fault, ...] = tuple(getattr(base, "faults", ()))
        self.fingerprint = digest_of("shuffled", base.fingerprint, share, seed)
        self._ring = Permutation(max(1, len(base)), seed, "shuffled")
        self._threshold = int(share * 2**64)

    def __len__(self) -> int:
        return len(self.base)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def place(self, index: int) -> Place:
        """Where the picture of row `index` stands."""
        return place_of(self.base, index)

    def is_wrong(self, index: int) -> bool:
        """Whether row `index` gets another row's words."""
        return mixed(self.seed, "wrong", index) < self._threshold

    def donor(self, index: int) -> int:
        """The row whose words row `index` gets when it is wrong; never itself."""
        other = self._ring[index]
        return other if other != index else (index + 1) % len(self.base)

    def __getitem__(self, index: int) -> Sample:
        """Row `index`; raises what the base raises, of this row or of the one whose words it gets."""
        index = range(len(self.base))[index]
        sample = self.base[index]
        if not self.is_wrong(index):
            return sample
        other = self.base[self.donor(index)]
        own = [message for message in sample.conversation.messages if message.role != "assistant"]
        said = [message for message in other.conversation.messages if message.role == "assistant"]
        return replace(sample, conversation=Conversation((*own, *said)), captions=other.captions)
