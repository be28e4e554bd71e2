"""The batching engine without its thread: requests in, one step at a time, replies out.

Replies share one cache where the module allows it (`Slotted`). Elsewhere those that wait together form a wave, and
waves take turns; a beam search is a wave of its own everywhere. In the deterministic mode a reply's bits don't depend
on what else is asked: rows are computed so that their number doesn't matter (`exactness`), and waves have one row.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from chiasm.core.batch import Batch
from chiasm.core.protocols import Generative, Slotted
from chiasm.generation.constraints import Grammars
from chiasm.generation.limits import Limits
from chiasm.generation.requests import Request, Ticket, ticket
from chiasm.generation.slotted import Keeping, SlotRun
from chiasm.generation.store import Counts
from chiasm.generation.waves import BeamWave, Wave

_CHUNKS = {"cpu": 64}  # more gains nothing on two cores, and a reply waits for one chunk at most
_LARGE_CHUNK = 512
_PATIENCE = 0.05  # seconds to wait for a prompt before looking whether anybody still wants it


@dataclass(frozen=True, slots=True)
class Opening:
    """Requests that begin together once their prompts are prepared."""

    members: list[tuple[Request, Ticket]]
    batch: Future[Batch]


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
        workers: where prompts are prepared, so that a large picture holds nobody up; None = here.
        together: prompts are read side by side, and all that are there before the next token is written; new ones begin
            when half of the rows are free. Sooner done with all of them, later with the first; not together with
            `deterministic`.
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
        workers: Executor | None = None,
        together: bool = False,
    ) -> None:
        assert not (deterministic and together)
        self.module, self.processor, self.rows, self.deterministic = module, processor, rows, deterministic
        self._limits, self._workers, self._together = limits, workers, together
        self._openings: list[Opening] = []
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
        return (
            self._preparing
            + sum(len(wave.tickets) for wave in self._waves)
            + (self.slotted.count if self.slotted else 0)
        )

    @property
    def waits(self) -> bool:
        """All that is in hand waits for its prompts to be prepared."""
        return self._preparing > 0 and self._preparing == self.active

    @property
    def _preparing(self) -> int:
        return sum(len(opening.members) for opening in self._openings)

    @property
    def caches(self) -> dict[str, Counts]:
        """How what is kept between requests is used: ``pictures``, and ``prompts`` part by part."""
        run = self.slotted
        return {} if run is None else {"pictures": run.pictures.counts, "prompts": run.beginnings.counts}

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
        if self.waits:
            wait([opening.batch for opening in self._openings], _PATIENCE, FIRST_COMPLETED)
            return
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
        """All prompts, or units of them for about as long as the last token took; one at least."""
        while self._together and run.prompts:
            run.read_together()
        deadline = time.perf_counter() + self._seconds
        while run.prompts and run.read() and time.perf_counter() < deadline:
            pass

    def _begin(self) -> None:
        crowded = self._together and 2 * self.active > self.rows  # few prompts at a time make short products
        while self._waiting and not crowded and self.active < self.rows:
            request, reply = self._waiting.popleft()
            if not reply.over:
                alone = request.num_beams > 1 or self.slotted is not None
                self._openings.append(self._opening([(request, reply), *(() if alone else self._company())]))
        openings, self._openings = self._openings, []
        for opening in openings:
            if all(reply.over for _, reply in opening.members):
                opening.batch.cancel()
            elif opening.batch.done():
                self._enter(opening)
            else:
                self._openings.append(opening)

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

    def _opening(self, members: list[tuple[Request, Ticket]]) -> Opening:
        prepare = partial(self.processor, [request.conversation for request, _ in members])
        if self._workers is not None:
            return Opening(members, self._workers.submit(prepare))
        batch: Future[Batch] = Future()
        try:
            batch.set_result(prepare())
        except Exception as error:
            batch.set_exception(error)
        return Opening(members, batch)

    def _enter(self, opening: Opening) -> None:
        (request, reply), *others = opening.members
        if self.slotted is not None and request.num_beams == 1:
            self.slotted.join(reply, opening.batch.result)
            return
        try:
            batch = opening.batch.result().to(self._device)
            if request.num_beams > 1:
                self._waves.append(BeamWave(self.module, batch, reply, request.num_beams))
            else:
                self._waves.append(Wave(self.module, batch, [reply for _, reply in opening.members]))
        except Exception as error:
            if others:  # one of them is at fault: the others must not pay for it
                self._openings += [self._opening([member]) for member in opening.members]
            else:
                reply.fail(error)

    def _step_wave(self, wave: Wave | BeamWave) -> None:
        try:
            wave.step()
        except Exception as error:
            for reply in wave.tickets:
                reply.fail(error)
            wave.tickets = []
