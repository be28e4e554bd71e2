"""What generation, evaluation, serving and training see of a model: behaviour, never a family's class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from chiasm.core.batch import Batch

if TYPE_CHECKING:
    import torch


class DecodingState(Protocol):
    """Everything a running decode remembers between two tokens."""

    def select(self, rows: torch.Tensor) -> None:
        """Keep the sequences `rows` (B′,), in that order; repeats are allowed."""


@runtime_checkable
class Generative(Protocol):
    """A module that writes text."""

    def prefill(self, batch: Batch, capacity: int) -> tuple[torch.Tensor, DecodingState]:
        """Read the prompts; return (B, V) logits of the next token and a state for up to `capacity` positions."""

    def decode(self, token_ids: torch.Tensor, state: DecodingState) -> torch.Tensor:
        """Take one more token (B,) a sequence; return (B, V) logits of the one after it."""


class Kept(Protocol):
    """What a model remembers of a part of a prompt."""

    @property
    def length(self) -> int:
        """Tokens of it."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""


class OpenPrompt(Protocol):
    """One prompt that is read in parts."""

    @property
    def length(self) -> int:
        """Tokens of it."""

    @property
    def read(self) -> int:
        """How many of them are read."""

    def keep(self, start: int, stop: int) -> Kept:
        """A copy of what is read of the tokens [start, stop), for a prompt that begins alike."""


class Slots(Protocol):
    """Running replies, one a row, without holes."""

    @property
    def nbytes(self) -> int:
        """Bytes held; none once every row has left."""

    def admit(self, prompt: Any) -> None:
        """A prompt that is read becomes the last row."""

    def leave(self, row: int) -> None:
        """Free a row; the last one moves into it."""


@runtime_checkable
class Slotted(Generative, Protocol):
    """A module whose replies, of any length and age, may share one cache and one forward pass."""

    def new_slots(self) -> Slots | None:
        """An empty cache; None where this module can't share one after all."""

    def pieces(self, batch: Batch) -> list[torch.Tensor]:
        """`pixel_values` cut into one tensor a picture."""

    def pictures(self, batch: Batch) -> list[torch.Tensor] | None:
        """One (N, D) tensor a picture of a batch; None where it has none."""

    def memory_key(self, batch: Batch) -> int:
        """What the memory of a prompt's beginning depends on besides the beginning itself."""

    def open_prompt(
        self, batch: Batch, pictures: Sequence[torch.Tensor | None], kept: Sequence[Any] = ()
    ) -> OpenPrompt:
        """Lay one conversation's prompt out behind the kept parts of its beginning; pictures within may be None."""

    def read_prompts(self, prompts: Sequence[Any], counts: Sequence[int]) -> list[torch.Tensor | None]:
        """Read more tokens of prompts that are equally far; (1, V) logits of what follows each that is read whole."""

    def write(self, token_ids: torch.Tensor, slots: Any, start: int, *, apart: bool = False) -> torch.Tensor:
        """Take one more token (B,) for each of the rows from `start` on; (B, V) logits of the one after it.

        Rows beyond the running ones are company. With `apart`, attention computes each row by itself.
        """

    def joins(self, prompt: Any) -> bool:
        """Whether `write_and_read` can take this prompt."""

    def write_and_read(
        self, token_ids: torch.Tensor, slots: Any, prompt: Any, count: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`write` for all running replies and `read_prompts` for one prompt, in one pass over the weights."""


@runtime_checkable
class Embedding(Protocol):
    """A module that puts pictures and texts into one space."""

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) → (I, E), L2-normalised."""

    def embed_texts(self, ids: torch.Tensor, attend: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) → (B, E), L2-normalised."""

    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(I, E), (B, E) → (I, B)."""


@runtime_checkable
class Matching(Protocol):
    """A module that judges whether a text belongs to its picture."""

    def match_logits(self, batch: Batch) -> torch.Tensor:
        """(B,) log-odds that each row's picture and text belong together."""


@runtime_checkable
class Answering(Protocol):
    """A module that answers by choosing among known answers.

    Attributes:
        answers: the answers, in the order of their scores.
        exclusive: one answer excludes the others (a softmax); otherwise each has its own sigmoid.
    """

    answers: Sequence[str]
    exclusive: bool

    def answer_logits(self, batch: Batch) -> torch.Tensor:
        """(B, A) score of every answer."""


@runtime_checkable
class Heating(Protocol):
    """A module that shows where in a picture a text is."""

    def heat(self, batch: Batch) -> torch.Tensor:
        """(B, rows, columns) how much each patch speaks for the row's text, at least 0."""


@runtime_checkable
class Objective(Protocol):
    """What a run minimises. Usually an `nn.Module`: its parameters train, its buffers (queues, momentum copies)
    are stored in checkpoints."""

    def __call__(self, module: Any, batch: Any) -> Mapping[str, torch.Tensor]:
        """Scalars by name; ``loss`` is minimised, the others are logged."""

    def after_step(self, module: Any, step: int) -> None:
        """Called after optimizer step `step` (from 1): momentum updates, queues."""
