"""Beam search with length-normalised scores (Wu et al. 2016, §7, with penalty exponent 1).

The rules follow published generation code so that replies agree token by token: 2·K candidates a step; an ending
candidate counts only among the first K; a row is done once K replies have ended and no running beam can beat the
worst of them at its present length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from chiasm.core.protocols import DecodingState, Generative


@dataclass(slots=True)
class _Finished:
    """The K best ended replies of one row, as (normalised score, ids, logprobs, ended by itself)."""

    size: int
    closed: bool = False
    kept: list[tuple[float, list[int], list[float], bool]] = field(default_factory=list)

    def add(self, total: float, length: int, ids: list[int], logprobs: list[float], ended: bool) -> None:
        if self.closed:  # the row was decided earlier and only keeps its neighbours company
            return
        self.kept.append((total / length, ids, logprobs, ended))
        self.kept.sort(key=lambda item: -item[0])
        del self.kept[self.size :]

    def close_if_decided(self, best_total: float, length: int) -> bool:
        """Whether no running beam can enter any more; from then on nothing does."""
        self.closed |= len(self.kept) == self.size and self.kept[-1][0] >= best_total / length
        return self.closed


class BeamSearch:
    """The search for every row's best reply, step by step.

    Args:
        module: what writes tokens.
        logits: (B, V) after the prompts.
        state: the decode to go on from; expanded to B·K sequences.
        steps: most tokens generated.
        num_beams: K.
        eos_ids: ids that end a reply.
    """

    def __init__(
        self,
        module: Generative,
        logits: torch.Tensor,
        state: DecodingState,
        *,
        steps: int,
        num_beams: int,
        eos_ids: frozenset[int],
    ) -> None:
        rows, self._vocab = logits.shape
        self._device = logits.device
        state.select(torch.arange(rows, device=self._device).repeat_interleave(num_beams))
        self._module, self._state, self._steps, self._beams, self._eos = module, state, steps, num_beams, eos_ids
        self._totals = torch.full((rows, num_beams), -torch.inf, device=self._device)
        self._totals[:, 0] = 0.0  # all beams of a row are equal at first: only one may speak
        self._scores = logits.float().log_softmax(-1).repeat_interleave(num_beams, 0)
        self._histories: list[list[tuple[list[int], list[float]]]] = [[([], [])] * num_beams for _ in range(rows)]
        self._finished = [_Finished(num_beams) for _ in range(rows)]
        self._done = [False] * rows
        self._step = 0

    def step(self) -> bool:
        """One more token for every beam; True once the search is over."""
        self._step += 1
        rows, beams = self._totals.shape
        candidates = (self._totals.view(-1, 1) + self._scores).view(rows, beams * self._vocab)
        top, flat = candidates.topk(2 * beams, dim=-1)
        parents, tokens = flat // self._vocab, flat % self._vocab
        every = torch.arange(rows, device=self._device)[:, None]
        step_scores = self._scores.view(rows, beams, self._vocab)[every, parents, tokens]
        picked = [
            _advance(self._finished[row], self._histories[row], top[row].tolist(), parents[row].tolist(),
                     tokens[row].tolist(), step_scores[row].tolist(), self._step, beams, self._eos)
            for row in range(rows)
        ]  # fmt: skip
        self._histories = [[history for history, _, _ in row] for row in picked]
        self._totals = torch.tensor([[total for _, total, _ in row] for row in picked], device=self._device)
        best = self._totals.amax(1).tolist()
        self._done = [self._finished[row].close_if_decided(best[row], self._step) for row in range(rows)]
        if all(self._done) or self._step == self._steps:
            return True
        kept = [[row * beams + parent for _, _, parent in each] for row, each in enumerate(picked)]
        self._state.select(torch.tensor(kept, device=self._device).flatten())
        chosen = torch.tensor([[history[0][-1] for history in row] for row in self._histories], device=self._device)
        self._scores = self._module.decode(chosen.flatten(), self._state).float().log_softmax(-1)
        return False

    def best(self) -> list[tuple[list[int], list[float], bool]]:
        """For each row: ids without the ending one, their log-probabilities, whether the model ended it."""
        for row, done in enumerate(self._done):
            if not done:
                for history, total in zip(self._histories[row], self._totals[row].tolist(), strict=True):
                    self._finished[row].add(total, len(history[0]), *history, False)
        return [(best.kept[0][1], best.kept[0][2], best.kept[0][3]) for best in self._finished]


def _advance(
    finished: _Finished,
    histories: list[tuple[list[int], list[float]]],
    top: list[float],
    parents: list[int],
    tokens: list[int],
    scores: list[float],
    step: int,
    num_beams: int,
    eos_ids: frozenset[int],
) -> list[tuple[tuple[list[int], list[float]], float, int]]:
    """One row's next beams: (history, total, parent) each; ended candidates go to `finished`."""
    beams: list[tuple[tuple[list[int], list[float]], float, int]] = []
    for rank, (total, parent, token, score) in enumerate(zip(top, parents, tokens, scores, strict=True)):
        ids, logprobs = histories[parent]
        if token in eos_ids:
            if rank < num_beams:
                finished.add(total, step, ids, logprobs, True)
        elif len(beams) < num_beams:
            beams.append((([*ids, token], [*logprobs, score]), total, parent))
    return beams
