"""The recipes of the connectors' table: one tower, one language model, one store, one setting that differs."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.data.named import open_named
from chiasm.models.model import Model
from chiasm.objectives.captioning import IGNORED, NextToken
from chiasm.recipes import connectors
from chiasm.recipes.run import Run
from chiasm.recipes.running.standard import choose_trainable
from chiasm.training.features import frozen_features

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8))
TALK = [
    {"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": "cat"},
]
SPLICED = ("pooled", "prefix", "linear", "mlp", "resampler", "grid", "qformer")


def built(run: Run) -> Model:
    model = run.model.build(run.family or "palme", 0)
    choose_trainable(model.module, run)
    return model


@pytest.mark.parametrize("connector", [*SPLICED, "flamingo"])
def test_one_setting_swaps_the_connector_and_only_it_learns(connector: str) -> None:
    run = replace(connectors.resampler_cells(), family="palme")
    run = replace(run, model=replace(run.model, connector=connector))
    if connector == "flamingo":
        run = replace(connectors.flamingo_cells(), family="flamingo")
    model = built(run)
    learning = {name for name, p in model.module.named_parameters() if p.requires_grad}
    assert learning and all(re.match(r"connector\.|gates\.", name) for name in learning)
    frozen = {n: p.clone() for n, p in model.module.named_parameters() if n not in learning}
    batch = model.processor([TALK], add_generation_prompt=False, supervise=True)
    objective = NextToken().build()
    optimizer = torch.optim.AdamW([p for p in model.module.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(3):
        loss = objective(model.module, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    now = dict(model.module.named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())


def test_all_families_over_the_tower_share_a_store(tmp_path) -> None:
    runs = [
        replace(connectors.frozen_cells(), family="palme"),
        replace(connectors.flamingo_cells(), family="flamingo"),
        replace(connectors.qformer_cells_stage1(), family="blip2_retrieval"),
    ]
    found = []
    for run in runs:
        model = built(run)
        store = frozen_features(model.module, model.processor, tmp_path, dtype="float16")
        assert store is not None
        dual = run.family == "blip2_retrieval"
        batch = store.processor.images([PICTURE]) if dual else store.processor([TALK], add_generation_prompt=False)
        assert (batch.features is None) == (not found)  # only the first had to compute them
        found.append(store.fill(batch).features)
        store.close()
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_the_first_stages_former_becomes_the_seconds() -> None:
    first, second = connectors.qformer_cells_stage1(), connectors.qformer_staged_cells()
    assert second.after == "qformer_cells_stage1"
    one = built(replace(first, family="blip2_retrieval")).module.state_dict()
    two = built(replace(second, family="palme")).module.state_dict()
    shared = {name for name, tensor in two.items() if name in one and one[name].shape == tensor.shape}
    new = {name for name in two if name.startswith("connector.")} - shared
    assert new == {"connector.proj.weight", "connector.proj.bias"}


def test_episodes_are_learned_whole_and_by_the_language_model_too() -> None:
    run = replace(connectors.frozen_cells_binding(), family="palme")
    model = built(run)
    learning = {name.split(".")[0] for name, p in model.module.named_parameters() if p.requires_grad}
    assert learning == {"connector", "language"}
    sample = open_named(run.data[0].name.replace("count=4000", "count=1"))[0]
    batch = model.processor([sample.conversation], add_generation_prompt=False, supervise=True)
    assert len(batch.spans) == 9 and batch.labels is not None
    begins = (batch.labels[0, 1:] != IGNORED) & (batch.labels[0, :-1] == IGNORED)
    assert begins.sum() == 9  # an answer behind every picture
    names = set(sample.annotations["choices"])
    said = model.processor.tokenizer.decode(batch.labels[0][batch.labels[0] != IGNORED].tolist())
    assert all(name in said for name in names)
