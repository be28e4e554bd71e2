"""Invertible renaming and reshaping of weights, as data.

A rule stands between two namespaces: *theirs* (a published layout) and *ours* (a module's state dict). Each
rule is read in both directions, so one table of them (`weights.table`) loads and saves.

Patterns are names with fields: `{p}` stands for a parameter's last component (letters and underscores), any
other field for a layer index. A field means the same on both sides of a rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from chiasm.core.errors import CheckpointError

Side = Literal["theirs", "ours"]
Shape = tuple[int, ...]
_FIELD = re.compile(r"\{(\w+)\}")


def regex(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern; its fields are named groups.

    Args:
        pattern: a name with fields.

    Returns:
        What `fullmatch` is asked of.
    """
    out, seen, position = [], set(), 0
    for match in _FIELD.finditer(pattern):
        out.append(re.escape(pattern[position : match.start()]))
        name = match[1]
        body = "[A-Za-z_]+" if name == "p" else "0|[1-9][0-9]*"  # one spelling per index, or it would be no bijection
        out.append(f"(?P={name})" if name in seen else f"(?P<{name}>{body})")
        seen.add(name)
        position = match.end()
    return re.compile("".join(out) + re.escape(pattern[position:]))


@dataclass(frozen=True, slots=True)
class Rule:
    """What every rule has: the patterns of its tensors on either side, in order."""

    def patterns(self, side: Side) -> tuple[str, ...]:
        """The patterns on one side."""
        raise NotImplementedError

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Theirs to ours; also run on the meta device to know shapes."""
        return list(tensors)

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Ours to theirs, the exact inverse."""
        return list(tensors)

    def prefixed(self, theirs: str, ours: str) -> Rule:
        """The same rule inside a larger model."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Rename(Rule):
    """One tensor under two names."""

    theirs: str
    ours: str

    def patterns(self, side: Side) -> tuple[str, ...]:
        """The patterns on one side."""
        return (self.theirs,) if side == "theirs" else (self.ours,)

    def prefixed(self, theirs: str, ours: str) -> Rule:
        """The same rule inside a larger model."""
        return replace(self, theirs=theirs + self.theirs, ours=ours + self.ours)


@dataclass(frozen=True, slots=True)
class Transpose(Rename):
    """One matrix, stored the other way round."""

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Swap the two axes."""
        return [tensors[0].transpose(0, 1)]

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Swap the two axes."""
        return self.forward(tensors)


@dataclass(frozen=True, slots=True)
class Reshape(Rename):
    """One tensor in two shapes; -1 is whatever remains, as in `torch.reshape`."""

    theirs_shape: Shape
    ours_shape: Shape

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Their shape to ours."""
        return [_reshape(tensors[0], self.theirs_shape, self.ours_shape, self.theirs)]

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Our shape to theirs."""
        return [_reshape(tensors[0], self.ours_shape, self.theirs_shape, self.ours)]


@dataclass(frozen=True, slots=True)
class Unsqueeze(Rename):
    """One tensor, stored with a first axis of length 1 that we don't have."""

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Drop the axis."""
        if tensors[0].dim() < 1 or tensors[0].shape[0] != 1:
            raise CheckpointError("tensor_shape", f"{self.theirs} is {dims(tensors[0].shape)}, expected 1×…")
        return [tensors[0][0]]

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Add the axis."""
        return [tensors[0][None]]


@dataclass(frozen=True, slots=True)
class Split(Rule):
    """Their fused tensor is ours cut along `dim`, into parts as `ratio` says (equal by default)."""

    theirs: str
    ours: tuple[str, ...]
    dim: int = 0
    ratio: tuple[int, ...] | None = None

    def patterns(self, side: Side) -> tuple[str, ...]:
        """The patterns on one side."""
        return (self.theirs,) if side == "theirs" else self.ours

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Cut."""
        ratio = self.ratio or (1,) * len(self.ours)
        size = tensors[0].shape[self.dim]
        if size % sum(ratio):
            raise CheckpointError(
                "tensor_shape", f"{self.theirs} has {size} rows, which is no multiple of {sum(ratio)}"
            )
        return list(tensors[0].split([size // sum(ratio) * part for part in ratio], self.dim))

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Join."""
        return [torch.cat(list(tensors), self.dim)]

    def prefixed(self, theirs: str, ours: str) -> Rule:
        """The same rule inside a larger model."""
        return replace(self, theirs=theirs + self.theirs, ours=tuple(ours + name for name in self.ours))


@dataclass(frozen=True, slots=True)
class Join(Rule):
    """Their tensors, one below the other, are ours; `sizes` are their rows."""

    theirs: tuple[str, ...]
    ours: str
    sizes: tuple[int, ...]

    def patterns(self, side: Side) -> tuple[str, ...]:
        """The patterns on one side."""
        return self.theirs if side == "theirs" else (self.ours,)

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Join."""
        return [torch.cat(list(tensors))]

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Cut."""
        return list(tensors[0].split(list(self.sizes)))

    def prefixed(self, theirs: str, ours: str) -> Rule:
        """The same rule inside a larger model."""
        return replace(self, theirs=tuple(theirs + name for name in self.theirs), ours=ours + self.ours)


@dataclass(frozen=True, slots=True)
class Grown(Rule):
    """Their vocabulary in two tensors, of which the first has rows that are never read; ours is what is read of both.

    `stored` rows has the first, `read` of them count; the others are written as zeros.
    """

    theirs: tuple[str, str]
    ours: str
    stored: int
    read: int

    def patterns(self, side: Side) -> tuple[str, ...]:
        """The patterns on one side."""
        return self.theirs if side == "theirs" else (self.ours,)

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Join what is read."""
        if tensors[0].shape[0] != self.stored:
            raise CheckpointError("tensor_shape", f"{self.theirs[0]} has {tensors[0].shape[0]} rows, not {self.stored}")
        return [torch.cat((tensors[0][: self.read], tensors[1]))]

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Cut, and fill up."""
        first, more = tensors[0][: self.read], tensors[0][self.read :]
        return [torch.cat((first, first.new_zeros(self.stored - self.read, *first.shape[1:]))), more]

    def prefixed(self, theirs: str, ours: str) -> Rule:
        """The same rule inside a larger model."""
        first, more = (theirs + name for name in self.theirs)
        return replace(self, theirs=(first, more), ours=ours + self.ours)


@dataclass(frozen=True, slots=True)
class SplitTranspose(Split):
    """Their fused matrix stands input first: transposed, then cut into ours along the output."""

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Transpose and cut."""
        return Split.forward(self, [tensors[0].transpose(0, 1)])

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Join and transpose."""
        return [Split.backward(self, tensors)[0].transpose(0, 1)]


@dataclass(frozen=True, slots=True)
class Interleaved(Rule):
    """Their fused queries, keys and values stand group by group: a group's queries, then its key and its value.

    `groups` is the number of key heads, `queries` how many query heads each serves.
    """

    theirs: str
    ours: tuple[str, str, str]
    groups: int
    queries: int

    def patterns(self, side: Side) -> tuple[str, ...]:
        """The patterns on one side."""
        return (self.theirs,) if side == "theirs" else self.ours

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Take the groups apart."""
        fused, heads = tensors[0], self.groups * (self.queries + 2)
        if fused.shape[0] % heads:
            raise CheckpointError("tensor_shape", f"{self.theirs} has {fused.shape[0]} rows, no multiple of {heads}")
        grouped = fused.view(self.groups, self.queries + 2, -1, *fused.shape[1:])
        return [part.flatten(0, 2) for part in grouped.split((self.queries, 1, 1), 1)]

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Put the groups together."""
        counts = (self.queries, 1, 1)
        parts = [t.view(self.groups, n, -1, *t.shape[1:]) for t, n in zip(tensors, counts, strict=True)]
        return [torch.cat(parts, 1).flatten(0, 2)]

    def prefixed(self, theirs: str, ours: str) -> Rule:
        """The same rule inside a larger model."""
        q, k, v = (ours + name for name in self.ours)
        return replace(self, theirs=theirs + self.theirs, ours=(q, k, v))


@dataclass(frozen=True, slots=True)
class PairedRotary(Rule):
    """Their fused queries, keys and values, whose rotary features stand in pairs; ours stand half and half."""

    theirs: str
    ours: tuple[str, str, str]
    heads: int

    def patterns(self, side: Side) -> tuple[str, ...]:
        """The patterns on one side."""
        return (self.theirs,) if side == "theirs" else self.ours

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Cut, and bring the first of all pairs together, then the second."""
        q, k, v = tensors[0].chunk(3)
        return [*(t.view(self.heads, -1, 2, *t.shape[1:]).transpose(1, 2).reshape(t.shape) for t in (q, k)), v]

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Pair up, and join."""
        q, k, v = tensors
        paired = [t.view(self.heads, 2, -1, *t.shape[1:]).transpose(1, 2).reshape(t.shape) for t in (q, k)]
        return [torch.cat((*paired, v))]

    def prefixed(self, theirs: str, ours: str) -> Rule:
        """The same rule inside a larger model."""
        q, k, v = (ours + name for name in self.ours)
        return replace(self, theirs=theirs + self.theirs, ours=(q, k, v))


@dataclass(frozen=True, slots=True)
class Stack(Rule):
    """Their tensors, one a slice of ours; with `parts` over 1, so many of them in a row make one slice."""

    theirs: tuple[str, ...]
    ours: str
    parts: int = 1

    def patterns(self, side: Side) -> tuple[str, ...]:
        """The patterns on one side."""
        return self.theirs if side == "theirs" else (self.ours,)

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Stack."""
        slices = [torch.cat(list(tensors[at : at + self.parts])) for at in range(0, len(tensors), self.parts)]
        return [torch.stack(slices)]

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Take apart."""
        return [part for piece in tensors[0].unbind() for part in piece.chunk(self.parts)]

    def prefixed(self, theirs: str, ours: str) -> Rule:
        """The same rule inside a larger model."""
        return replace(self, theirs=tuple(theirs + name for name in self.theirs), ours=ours + self.ours)


@dataclass(frozen=True, slots=True)
class ColoursLast(Rename):
    """A patch projection that they keep as a matrix over (row, column, colour), we as a convolution of `size`."""

    size: int

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Matrix to convolution."""
        return [tensors[0].view(-1, self.size, self.size, 3).permute(0, 3, 1, 2)]

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Convolution to matrix."""
        return [tensors[0].permute(0, 2, 3, 1).flatten(1)]


@dataclass(frozen=True, slots=True)
class Drop(Rule):
    """A tensor that older files hold and we don't need (a buffer, an unused head): not loaded, not written."""

    theirs: str

    def patterns(self, side: Side) -> tuple[str, ...]:
        """The patterns on one side."""
        return (self.theirs,) if side == "theirs" else ()

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Nothing is kept."""
        return []

    def prefixed(self, theirs: str, ours: str) -> Rule:
        """The same rule inside a larger model."""
        return replace(self, theirs=theirs + self.theirs)


@dataclass(frozen=True, slots=True)
class Tied(Drop):
    """A second copy of a tied tensor: when a file holds both, they must be equal bit for bit.

    `of` is their name of the tensor that stays.
    """

    of: str

    def prefixed(self, theirs: str, ours: str) -> Rule:
        """The same rule inside a larger model."""
        return replace(self, theirs=theirs + self.theirs, of=theirs + self.of)


def prefixed(rules: Iterable[Rule], theirs: str, ours: str) -> tuple[Rule, ...]:
    """A part's rules inside a larger model: both sides get their prefix.

    Args:
        rules: the part's own rules.
        theirs: prefix on their side, such as ``vision_tower.``.
        ours: prefix on our side, such as ``vision.``.

    Returns:
        New rules.
    """
    return tuple(rule.prefixed(theirs, ours) for rule in rules)


def _reshape(tensor: torch.Tensor, given: Shape, wanted: Shape, name: str) -> torch.Tensor:
    fits = len(given) == tensor.dim() and all(g in (-1, s) for g, s in zip(given, tensor.shape, strict=False))
    if not fits:
        raise CheckpointError("tensor_shape", f"{name} is {dims(tensor.shape)}, expected {dims(given)}")
    return tensor.reshape(wanted)


def dims(shape: Sequence[int]) -> str:
    """A shape for people: ``3×32``."""
    return "×".join(str(size) for size in shape) or "a scalar"
