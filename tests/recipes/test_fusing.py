"""The pico recipes of the matching and fusing families: small, and their losses reach every part that learns."""

from __future__ import annotations

import pytest
import torch
from tests.parity.test_families import picture

from chiasm.recipes import fusing

NAMES = ("blip", "albef", "vilt", "coca", "align", "vse")
TEXTS = ["a red circle", "two dogs and a yellow ball", "the blue boat", "there are birds"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_s_objective_reaches_its_model(name) -> None:
    torch.manual_seed(0)
    run = getattr(fusing, f"{name}_pico")()
    model = run.model.build(name, seed=0)
    module, processor = model.module, model.processor
    assert sum(p.numel() for p in module.parameters()) < 10_000_000
    batch = processor.images([picture(seed, 40, 30) for seed in range(4)])
    texts = processor.texts(TEXTS)
    batch.input_ids, batch.attention_mask = texts.input_ids, texts.attention_mask
    objective = run.objective.build()
    if hasattr(objective, "prepare"):
        objective.prepare(module, 100_000)
    scalars = objective(module, batch)
    scalars["loss"].backward()
    objective.after_step(module, 1)
    assert all(torch.isfinite(value) for value in scalars.values())
    without = {n for n, p in module.named_parameters() if p.grad is None and "pooler" not in n}
    assert without <= {"logit_bias"}, without


def test_vilt_learns_which_pictures_belong() -> None:
    torch.manual_seed(0)
    run = fusing.vilt_pico()
    model = run.model.build("vilt", seed=0)
    batch = model.processor.pairs([picture(seed, 40, 40) for seed in range(4)], TEXTS)
    objective, optimizer = run.objective.build(), torch.optim.AdamW(model.module.parameters(), lr=1e-3)
    model.module.train()
    losses = []
    for _ in range(25):
        scalars = objective(model.module, batch)
        optimizer.zero_grad()
        scalars["loss"].backward()
        optimizer.step()
        losses.append(scalars["loss"].item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert abs(scalars["loss"] - scalars["match"] - scalars["words"] - 0.1 * scalars["transport"]) <= 1e-5
