"""Decoding from the cache beside whole passes, for every test that asks whether they are the same."""

from __future__ import annotations

import torch

from chiasm.core.batch import Batch


def decoded_beside_whole(module: torch.nn.Module, batch: Batch, steps: int) -> torch.Tensor:
    """Write greedily; the whole is left in `batch`.

    Args:
        module: what writes.
        batch: prompts of any lengths.
        steps: tokens written beyond the prompts' own next one.

    Returns:
        The largest difference of any logit from one pass over everything.
    """
    with torch.no_grad():
        logits, state = module.prefill(batch, batch.input_ids.shape[1] + steps)
        written = [logits]
        for _ in range(steps):
            token = written[-1].argmax(-1)
            written.append(module.decode(token, state))
            batch.input_ids = torch.cat((batch.input_ids, token[:, None]), 1)
            batch.attention_mask = torch.nn.functional.pad(batch.attention_mask, (0, 1), value=True)
        full = module(batch)[:, -1 - steps :]
    return (torch.stack(written, 1) - full).abs().max()
