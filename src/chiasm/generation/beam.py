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


def beam_search(
    module: Generative,
    logits: torch.Tensor,
    state: DecodingState,
    *,
    steps: int,
    num_beams: int,
    eos_ids: frozenset[int],
) -> list[tuple[list[int], list[float], bool]]:
    """Search every row's best reply.

    Args:
        module: what writes tokens.
        logits: (B, V) after the prompts.
        state: the decode to go on from; expanded to B·K sequences.
        steps: most tokens generated.
        num_beams: K.
        eos_ids: ids that end a reply.

    Returns:
        For each row: ids without the ending one, their log-probabilities, whether the model ended it.
    """
    rows, vocab = logits.shape
    device = logits.device
    state.select(torch.arange(rows, device=device).repeat_interleave(num_beams))
    totals = torch.full((rows, num_beams), -torch.inf, device=device)
    totals[:, 0] = 0.0  # all beams of a row are equal at first: only one may speak
    scores = logits.float().log_softmax(-1).repeat_interleave(num_beams, 0)
    histories: list[list[tuple[list[int], list[float]]]] = [[([], [])] * num_beams for _ in range(rows)]
    finished = [_Finished(num_beams) for _ in range(rows)]
    for step in range(1, steps + 1):
        candidates = (totals.view(-1, 1) + scores).view(rows, num_beams * vocab)
        top, flat = candidates.topk(2 * num_beams, dim=-1)
        parents, tokens = flat // vocab, flat % vocab
        step_scores = scores.view(rows, num_beams, vocab)[torch.arange(rows, device=device)[:, None], parents, tokens]
        picked = [
            _advance(finished[row], histories[row], top[row].tolist(), parents[row].tolist(), tokens[row].tolist(),
                     step_scores[row].tolist(), step, num_beams, eos_ids)
            for row in range(rows)
        ]  # fmt: skip
        histories = [[history for history, _, _ in row] for row in picked]
        totals = torch.tensor([[total for _, total, _ in row] for row in picked], device=device)
        done = [finished[row].close_if_decided(totals[row].max().item(), step) for row in range(rows)]
        if all(done) or step == steps:
            break
        parents = torch.tensor(
            [[row * num_beams + parent for _, _, parent in beams] for row, beams in enumerate(picked)], device=device
        )
        state.select(parents.flatten())
        chosen = torch.tensor([[history[0][-1] for history in row] for row in histories], device=device).flatten()
        scores = module.decode(chosen, state).float().log_softmax(-1)
    for row in range(rows):
        if not done[row]:
            for history, total in zip(histories[row], totals[row].tolist(), strict=True):
                finished[row].add(total, len(history[0]), *history, False)
    return [(best.kept[0][1], best.kept[0][2], best.kept[0][3]) for best in finished]


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
