"""The batching engine without its thread: requests in, one step at a time, replies out.

Replies share one cache where the module allows it (`Slotted`). Elsewhere those that wait together form a wave, and
waves take turns; a beam search is a wave of its own everywhere. In the deterministic mode a reply's bits don't depend
on what else is asked: rows are computed so that their number doesn't matter (`exactness`), and waves have one row.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from chiasm.core.batch import Batch
from chiasm.core.protocols import Generative, Slotted
from chiasm.generation.constraints import Grammars
from chiasm.generation.limits import Limits
from chiasm.generation.requests import Request, Ticket, ticket
from chiasm.generation.slotted import Keeping, SlotRun
from chiasm.generation.waves import BeamWave, Wave

_CHUNKS = {"cpu": 64}  # more gains nothing on two cores, and a reply waits for one chunk at most
_LARGE_CHUNK = 512


class Scheduler:
    """Answers requests to one module.

    Args:
        module: what reads and writes; nobody else may use it during a step.
        processor: (conversations) → `Batch`; has `tokenizer`.
        limits: (max_new_tokens, stop) → when a reply ends.
        rows: most replies in the making.
        deterministic: a reply doesn't depend on what else is asked.
        keeping: what is kept between requests.
        chunk: tokens of a prompt read at once; None = what suits the device.
    """

    def __init__(
        self,
        module: Generative,
        processor: Any,
        limits: Callable[[int, Sequence[str]], Limits],
        *,
        rows: int = 8,
        deterministic: bool = False,
        keeping: Keeping | None = None,
        chunk: int | None = None,
    ) -> None:
        self.module, self.processor, self.rows, self.deterministic = module, processor, rows, deterministic
        self._limits = limits
        self._device = next(module.parameters()).device  # type: ignore[attr-defined]
        self._waiting: deque[tuple[Request, Ticket]] = deque()
        self._waves: list[Wave | BeamWave] = []
        self._grammars = Grammars(processor.tokenizer, sorted(limits(1, ()).eos_ids))
        self._seconds = 0.0  # what the last step of writing took
        self.slotted: SlotRun | None = None
        slots = module.new_slots() if isinstance(module, Slotted) else None
        if isinstance(module, Slotted) and slots is not None:
            self.slotted = SlotRun(
                module,
                slots,
                rows=rows,
                chunk=chunk or _CHUNKS.get(self._device.type, _LARGE_CHUNK),
                apart=deterministic,
                keeping=keeping or Keeping(),
            )

    @property
    def active(self) -> int:
        """Replies and prompts in hand."""
        return sum(len(wave.tickets) for wave in self._waves) + (self.slotted.count if self.slotted else 0)

    @property
    def room(self) -> int:
        """How many more requests would be begun at the next step."""
        return self.rows - self.active - len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nothing is in hand and nothing waits."""
        return not self._waiting and self.active == 0

    def add(self, request: Request) -> Ticket:
        """Take a request.

        Args:
            request: what is asked.

        Returns:
            Its reply in the making: `result` holds the reply or the failure in the end.

        Raises:
            ConfigError: a number out of range, or a constraint that can't be followed.
        """
        limits = self._limits(request.max_new_tokens, request.stop)
        reply = ticket(request, limits, self.processor.tokenizer, self._grammars)
        self._waiting.append((request, reply))
        return reply

    @torch.inference_mode()
    def step(self) -> None:
        """Begin what there is room for, read some of the prompts, write one token for every running reply."""
        self._begin()
        start = time.perf_counter()
        if self.slotted is not None:
            self.slotted.write()
        for wave in self._waves:
            self._step_wave(wave)
        self._waves = [wave for wave in self._waves if wave.tickets]
        self._seconds = time.perf_counter() - start
        if self.slotted is not None:
            self._read(self.slotted)

    def run(self) -> None:
        """Step until nothing is left to do."""
        while not self.idle:
            self.step()

    def _read(self, run: SlotRun) -> None:
        """Units of prompts, for about as long as the last token took; one at least."""
        deadline = time.perf_counter() + self._seconds
        while run.prompts:
            run.read()
            if time.perf_counter() >= deadline:
                return

    def _begin(self) -> None:
        while self._waiting and self.active < self.rows:
            request, reply = self._waiting.popleft()
            if reply.over:
                continue
            if request.num_beams > 1:
                self._guard([reply], partial(self._beam_wave, request, reply))
            elif self.slotted is not None:
                self.slotted.join(reply, partial(self.processor, [request.conversation]))
            else:
                self._begin_wave([(request, reply), *self._company()])

    def _company(self) -> list[tuple[Request, Ticket]]:
        """What else waits and can begin together with one that just left the queue."""
        found: list[tuple[Request, Ticket]] = []
        while not self.deterministic and self._waiting and self.active + len(found) + 1 < self.rows:
            request, reply = self._waiting[0]
            if request.num_beams > 1:
                break
            self._waiting.popleft()
            if not reply.over:
                found.append((request, reply))
        return found

    def _begin_wave(self, members: list[tuple[Request, Ticket]]) -> None:
        if not self._guard([reply for _, reply in members], partial(self._wave, members)):
            for member in members:  # one of them is at fault: the others must not pay for it
                self._begin_wave([member])

    def _wave(self, members: list[tuple[Request, Ticket]]) -> Wave:
        return Wave(self.module, self._batch([request for request, _ in members]), [reply for _, reply in members])

    def _beam_wave(self, request: Request, reply: Ticket) -> BeamWave:
        return BeamWave(self.module, self._batch([request]), reply, request.num_beams)

    def _guard(self, replies: list[Ticket], start: Callable[[], Wave | BeamWave]) -> bool:
        """Begin a wave; False when it fails and several might be at fault."""
        try:
            self._waves.append(start())
        except Exception as error:
            if len(replies) > 1:
                return False
            replies[0].fail(error)
        return True

    def _step_wave(self, wave: Wave | BeamWave) -> None:
        try:
            wave.step()
        except Exception as error:
            for reply in wave.tickets:
                reply.fail(error)
            wave.tickets = []

    def _batch(self, requests: list[Request]) -> Batch:
        return self.processor([request.conversation for request in requests]).to(self._device)
