"""The order of rows: a random permutation of any length whose every entry is known at once, without the others.

A Feistel network (Luby & Rackoff 1988) over the smallest even number of bits that holds the length is a permutation;
walking it until it comes back below the length (Black & Rogaway 2002, §3, "cycle walking") is one of exactly that
length. Resuming anywhere and reading with any number of workers therefore need no replay.
"""

from __future__ import annotations

from hashlib import blake2b

_ROUNDS = 6
_MASK = (1 << 64) - 1


def mixed(*parts: int | str) -> int:
    """64 bits that depend on all parts, and look random."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


class Permutation:
    """A random permutation of 0 … length - 1.

    Args:
        length: at least 1.
        parts: what chooses the permutation, such as a seed and an epoch.
    """

    def __init__(self, length: int, *parts: int | str) -> None:
        assert length >= 1, f"a permutation of {length} numbers"
        self.length = length
        self._half = max(1, ((length - 1).bit_length() + 1) // 2)
        self._keys = [mixed(*parts, turn) for turn in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> int:
        """What stands at `position`."""
        if not 0 <= position < self.length:
            raise IndexError(f"position {position} of {self.length}")
        value = self._encrypt(position)
        while value >= self.length:
            value = self._encrypt(value)
        return value

    def _encrypt(self, value: int) -> int:
        half, low = self._half, (1 << self._half) - 1
        left, right = value >> half, value & low
        for key in self._keys:
            # splitmix64's finaliser (Steele et al. 2014, fig. 16): every bit of the result depends on every bit given
            x = (right + key) & _MASK
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
            left, right = right, left ^ ((x ^ (x >> 31)) & low)
        return left << half | right
