"""Running replies of one model in one cache: requests join at any step, leave when they are done, and never wait for
each other's prompts.

A prompt is read in units: its pictures one by one, its tokens in parts of `chunk` that never cross the end of a
picture. Pictures are kept by the content of their pixels, and what the model remembers of each part by its tokens and
pictures and all those before it, so that prompts that begin alike read their beginning once. Several parts may be read
in one pass, and one with the running replies' next tokens. Rows that are written apart have neither: their passes
depend on the prompt alone, not on what is kept or who else is asking, so that the same prompt is always read by the
same computations.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Any

import torch

from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.plan import ImagePlan
from chiasm.core.protocols import Kept, OpenPrompt, Slots, Slotted
from chiasm.generation.exactness import company_needed
from chiasm.generation.parts import PASS, part_ends, part_keys, passes, picture_keys
from chiasm.generation.requests import Ticket
from chiasm.generation.store import Store


@dataclass(frozen=True, slots=True)
class Due:
    """The next part of a prompt, all before it being read: so many tokens."""

    prompt: OpenPrompt
    count: int


class Pause(Enum):
    """Why a prompt has no part due: something else is to be done, or another that begins alike is being read."""

    WORK = "work"
    WAITING = "waiting"


Reading = Generator[Due | Pause, torch.Tensor | None, tuple[OpenPrompt, torch.Tensor]]


@dataclass(slots=True, eq=False)
class Coming:
    """A request whose prompt is being read, and what comes next."""

    ticket: Ticket
    reading: Reading
    due: Due | Pause = Pause.WORK


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeping:
    """What may be kept between requests.

    Attributes:
        picture_bytes: of encoded pictures.
        beginning_bytes: of the keys and values of parts of prompts.
    """

    picture_bytes: int = 256 * 2**20
    beginning_bytes: int = 512 * 2**20


class SlotRun:
    """The running replies and the prompts that are being read.

    Args:
        module: what reads and writes.
        slots: its empty cache.
        rows: most running replies and prompts together.
        chunk: tokens of a prompt read at once.
        apart: no bit of a reply depends on the others.
        keeping: see `Keeping`.
    """

    def __init__(self, module: Slotted, slots: Slots, *, rows: int, chunk: int, apart: bool, keeping: Keeping) -> None:
        self.module, self.slots, self.rows, self.chunk, self.apart = module, slots, rows, chunk, apart
        self.pictures: Store[torch.Tensor] = Store(keeping.picture_bytes)
        self.beginnings: Store[Kept] = Store(keeping.beginning_bytes)
        self.tickets: list[Ticket] = []  # one a row
        self.prompts: list[Coming] = []  # whose turn is next first
        self.prompt_tokens_read = 0
        self._logits: list[torch.Tensor] = []  # one (1, V) a row, of the token that is to be drawn
        self._making: set[bytes] = set()
        self._company = company_needed(module, rows) if apart else 1

    @property
    def count(self) -> int:
        """Replies and prompts in hand."""
        return len(self.tickets) + len(self.prompts)

    def join(self, ticket: Ticket, prepare: Callable[[], Batch]) -> None:
        """Take a request in.

        Args:
            ticket: its reply.
            prepare: gives the batch of its one prompt.
        """
        self.prompts.append(Coming(ticket, self._read(ticket, prepare)))

    def read(self) -> bool:
        """One unit of one prompt; prompts take turns.

        Returns:
            Whether there was one. Parts that `write` reads beside the replies' next tokens are none.
        """
        for coming in list(self.prompts):
            if self.tickets and self._joins(coming):
                continue
            self._had_its_turn(coming)
            if isinstance(coming.due, Due) and not coming.ticket.over:
                self._parts([(coming, coming.due)])
            else:
                self._go_on(coming, None)
            if coming.due is not Pause.WAITING:
                return True
        return False

    def _had_its_turn(self, coming: Coming) -> None:
        self.prompts.remove(coming)
        self.prompts.append(coming)

    def _joins(self, coming: Coming) -> bool:
        """Whether a prompt's next part can be read in one pass with the replies' next tokens."""
        due = coming.due
        return isinstance(due, Due) and not coming.ticket.over and not self.apart and self.module.joins(due.prompt)

    def read_together(self) -> None:
        """One part of as many prompts as are equally far, and whatever else they need before it.

        Few long products instead of many short ones: for when nobody waits for the first reply.
        """
        for coming in list(self.prompts):
            if not isinstance(coming.due, Due):
                self._go_on(coming, None)
            while coming.due is Pause.WORK and coming in self.prompts:
                self._go_on(coming, None)
        ready = [(coming, coming.due) for coming in self.prompts if isinstance(coming.due, Due)]
        least = min((due.prompt.read for _, due in ready), default=0)
        self._parts([(coming, due) for coming, due in ready if due.prompt.read == least])

    def _parts(self, group: Sequence[tuple[Coming, Due]]) -> None:
        """Read the parts that are due."""
        if not group:
            return
        dues = [due for _, due in group]
        found: list[torch.Tensor | None] = [None]
        try:
            found = self.module.read_prompts([due.prompt for due in dues], [due.count for due in dues])
        except Exception as error:
            if len(group) > 1:  # one of them is at fault: the others must not pay for it
                for each in group:
                    self._parts([each])
                return
            group[0][0].ticket.fail(error)
        for (coming, due), logits in zip(group, found, strict=True):
            self.prompt_tokens_read += due.count
            self._go_on(coming, logits)

    def _go_on(self, coming: Coming, logits: torch.Tensor | None) -> None:
        """The next unit, up to the next part; a prompt that is read becomes a row."""
        try:
            if coming.ticket.over:
                coming.reading.close()
            else:
                coming.due = coming.reading.send(logits)
                return
        except StopIteration as end:
            prompt, last = end.value
            self.slots.admit(prompt)
            self.tickets.append(coming.ticket)
            self._logits.append(last)
        except Exception as error:
            coming.ticket.fail(error)
        self.prompts.remove(coming)

    def write(self) -> None:
        """One more token for every running reply, and a prompt's next part where they join; who is over leaves."""
        self._drop()
        if not self.tickets:
            return
        tokens: list[int] = []
        for ticket, logits in zip(self.tickets, self._logits, strict=True):
            tokens.append(self._draw(ticket, logits))
        going = [tokens[at] for at in self._drop()]
        coming = next(filter(self._joins, self.prompts), None)
        if going and coming is not None:
            self._advance_and_read(going, coming)
        elif going:
            self._advance(going)

    def _draw(self, ticket: Ticket, logits: torch.Tensor) -> int:
        try:
            drawn = ticket.chooser.choose(logits)
            ticket.take(drawn)
        except Exception as error:
            ticket.fail(error)
            return 0
        return drawn.token_id

    def _drop(self) -> list[int]:
        """Let go of the replies that are over; where the rows that remain stood before."""
        stood = list(range(len(self.tickets)))
        for row in reversed(range(len(self.tickets))):
            if self.tickets[row].over:
                self.slots.leave(row)
                _leave(self.tickets, row)
                _leave(self._logits, row)
                _leave(stood, row)
        return stood

    def _advance_and_read(self, tokens: Sequence[int], coming: Coming) -> None:
        """One more token for every row, and the next part of a prompt."""
        assert isinstance(coming.due, Due)
        due, ids = coming.due, torch.tensor(tokens, device=self._logits[0].device)
        self._had_its_turn(coming)
        try:
            rows, logits = self.module.write_and_read(ids, self.slots, due.prompt, due.count)
        except Exception:  # apart, whoever is at fault fails alone
            self._advance(tokens)
            self._parts([(coming, due)])
            return
        self._logits = list(rows.split(1))
        self.prompt_tokens_read += due.count
        self._go_on(coming, logits)

    def _advance(self, tokens: Sequence[int]) -> None:
        try:
            if self._company is None:
                raise _RowsDiffer
            self._logits = list(self._write(tokens, 0, self._company).split(1))[: len(tokens)]
        except Exception as error:  # one of the rows may be at fault: the others must not pay for it
            if len(tokens) == 1 and not isinstance(error, _RowsDiffer):
                self.tickets[0].fail(error)
                return
            for row, token in enumerate(tokens):
                try:
                    self._logits[row] = self._write([token], row, 1)
                except Exception as own:
                    self.tickets[row].fail(own)

    def _write(self, tokens: Sequence[int], start: int, least: int) -> torch.Tensor:
        ids = list(tokens) + [0] * (least - len(tokens))
        device = self._logits[0].device
        return self.module.write(torch.tensor(ids, device=device), self.slots, start, apart=self.apart)

    def _read(self, ticket: Ticket, prepare: Callable[[], Batch]) -> Reading:
        """Read a prompt, a unit between two yields; the parts that are due are read by who takes them."""
        batch = prepare()
        ticket.begin(batch, 0)
        yield Pause.WORK
        keys = picture_keys(self.module, batch)
        assert batch.input_ids is not None
        ends, longest = part_ends(batch.spans, batch.input_ids.shape[1], self.chunk), PASS * self.chunk
        if self.apart:  # whoever reads it, what is kept must come of the same passes: each is one part
            told = batch.spans[-1].stop if batch.spans else None  # behind the pictures, questions begin to differ
            ends, longest = [group[-1] for group in passes(0, ends, longest, told)], 0
        marks = part_keys(self.module, batch, keys, ends)
        while any(key in self._making for key in marks.values()):
            yield Pause.WAITING  # somebody else is reading the same beginning
        kept = self._kept(marks)
        stop = sum(part.length for part in kept)
        mine = [key for end, key in marks.items() if end > stop]
        self._making.update(mine)
        try:
            pictures: list[torch.Tensor | None] = []
            for number, span in enumerate(batch.spans):
                if span.stop <= stop:
                    pictures.append(None)
                    continue
                pictures.append(self._picture(batch, number, keys[number]))
                yield Pause.WORK
            prompt = self.module.open_prompt(_moved(batch, self._device), pictures, kept)
            logits = None
            for group in passes(stop, ends[len(kept) :], longest):
                start = prompt.read
                logits = yield Due(prompt, group[-1] - start)
                for end in group:
                    if end in marks:
                        part = prompt.keep(start, end)
                        self.beginnings.put(marks[end], part, part.nbytes)
                        self._making.discard(marks[end])
                    start = end
            assert logits is not None
            return prompt, logits
        finally:
            self._making.difference_update(mine)

    def _kept(self, marks: dict[int, bytes]) -> list[Kept]:
        """The parts of the longest beginning that is kept whole."""
        found = list(takewhile(self.beginnings.__contains__, marks.values()))
        self.beginnings.counts.misses += len(marks) - len(found)
        return [part for key in found if (part := self.beginnings.get(key)) is not None]

    def _picture(self, batch: Batch, number: int, key: bytes) -> torch.Tensor:
        tokens = self.pictures.get(key)
        if tokens is None:
            alone = _alone(self.module, batch, number)
            found = self.module.pictures(_moved(alone, self._device))
            assert found is not None
            tokens = found[0].clone()  # not a view of something larger
            self.pictures.put(key, tokens, tokens.nbytes)
        return tokens

    @property
    def _device(self) -> Any:
        return next(self.module.parameters()).device  # type: ignore[attr-defined]


class _RowsDiffer(Exception):
    """Rows must be written one by one, or their bits would depend on each other."""


def _leave(rows: list[Any], row: int) -> None:
    rows[row] = rows[-1]
    rows.pop()


def _alone(module: Slotted, batch: Batch, number: int) -> Batch:
    """One picture of a batch."""
    plan: ImagePlan = batch.plans[number]
    span: ImageSpan = batch.spans[number]
    return Batch(
        input_ids=batch.input_ids,
        pixel_values=module.pieces(batch)[number],
        plans=(plan,),
        spans=(span,),
        instruction_ids=batch.instruction_ids,
        instruction_mask=batch.instruction_mask,
    )


def _moved(batch: Batch, device: Any) -> Batch:
    moved = batch.to(device)
    moved.attention_mask = None
    return moved
