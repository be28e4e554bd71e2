"""The recipes of bridged families: what learns, by count, and that one setting swaps the connector."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from chiasm.core.errors import ConfigError
from chiasm.recipes import bridges

PICTURE = Image.fromarray(np.full((96, 96, 3), (200, 30, 30), dtype=np.uint8))
TALK = [
    {"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "what color is it?"}]},
    {"role": "assistant", "content": "red"},
]


def trained(run: bridges.Run, module: torch.nn.Module) -> int:
    for name, parameter in module.named_parameters():
        learns = any(re.search(pattern, name) for pattern in run.learn)
        parameter.requires_grad_(learns and not any(re.search(pattern, name) for pattern in run.freeze))
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("connector", ["linear", "mlp", "prefix", "qformer", "resampler", "grid", "latents"])
def test_one_setting_swaps_the_connector_over_frozen_parts(connector) -> None:
    run = bridges.blip2_pico()
    run = replace(run, model=replace(run.model, connector=connector))
    model = run.model.build("blip2", 0)
    count = trained(run, model.module)
    assert count == sum(p.numel() for p in model.module.connector.parameters())
    before = {n: p.clone() for n, p in model.module.named_parameters() if not p.requires_grad}
    batch = model.processor([TALK], add_generation_prompt=False, supervise=True)
    optimizer = torch.optim.AdamW([p for p in model.module.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model.module(batch)[0, :-1], batch.labels[0, 1:], ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    now = dict(model.module.named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


def test_an_unknown_connector_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="qformer"):
        bridges.connector_by_name("magic", 32, 48, 4)


PAPER = {
    bridges.blip2_stage1_paper: ("blip2_retrieval", 186_702_654),  # paper: 188M
    bridges.blip2_opt_2_7b_stage2_paper: ("blip2", None),
    bridges.minigpt4_7b_align_paper: ("minigpt4", 768 * 4096 + 4096),
    bridges.flamingo_3b_paper: ("flamingo", None),  # paper: 1.2B gated layers, 194M resampler
}


@pytest.mark.parametrize("recipe", PAPER, ids=lambda recipe: recipe.__name__)
def test_paper_scale_trains_what_the_paper_trains(recipe) -> None:
    from chiasm.core.registry import family

    name, count = PAPER[recipe]
    run = recipe()
    with torch.device("meta"):
        module = family(name).presets[run.model.name].build()
    found = trained(run, module)
    assert count is None or found == count
    assert not any(p.requires_grad for n, p in module.named_parameters() if n.startswith(("vision.", "language.")))
