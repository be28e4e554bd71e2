"""The pico recipes of the matching and fusing families: small, and their losses reach every part that learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.parity.test_families import picture

from chiasm.core.messages import Conversation
from chiasm.data.named import open_named
from chiasm.recipes import fusing, fusing_cells
from chiasm.recipes.run import find_recipe
from chiasm.recipes.running.show import show_sample
from chiasm.recipes.running.standard import choose_trainable
from chiasm.training.features import frozen_features
from chiasm.weights.load import load

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


@pytest.mark.parametrize("name", [*NAMES, "imagebind"])
def test_over_cells_stored_features_give_the_loss_of_pixels_and_the_tower_stays(name, tmp_path) -> None:
    run = find_recipe(f"{name}_cells").run()
    model = run.model.build(name, seed=0)
    choose_trainable(model.module, run)
    stored = frozen_features(model.module, model.processor, tmp_path / "features")
    pictures = [picture(seed, 40, 30) for seed in range(4)]
    texts = model.processor.texts(TEXTS)
    losses = []
    for _ in range(2):  # computed and stored, then found
        batch = stored.fill(stored.processor.images(pictures))
        assert batch.pixel_values is None and batch.features.shape == (4, 49, 768)
        losses.append(_loss(run, model.module, replace(batch, input_ids=texts.input_ids)))
    batch = model.processor.images(pictures)
    losses.append(_loss(run, model.module, replace(batch, input_ids=texts.input_ids)))
    assert stored.report()["hits"] == 4 and stored.report()["computed"] == 4
    assert losses[0] == losses[1] and losses[0] == pytest.approx(losses[2], rel=1e-4)
    for part, parameter in model.module.named_parameters():
        assert (parameter.grad is None) == (".network." in part or ".pooler." in part), part


def _loss(run, module, batch) -> float:
    torch.manual_seed(0)
    objective = run.objective.build()
    if hasattr(objective, "prepare"):
        objective.prepare(module, 100_000)
    module.zero_grad()
    scalars = objective(module, batch)
    scalars["loss"].backward()
    return scalars["loss"].item()


@pytest.mark.parametrize("name", ["albef_cells_entailment", "vilt_cells_pairs", "albef_cells_pairs"])
def test_judges_over_cells_learn_from_labelled_statements_and_answer(name, tmp_path) -> None:
    run = getattr(fusing_cells, name)()
    family = name.split("_")[0]
    model = run.model.build(family, seed=0)
    rows = list(open_named(f"scenes:train:{'pairs' if 'pairs' in name else 'entailment'}?nouns=12&size=64&count=3"))
    batch = run.collate.build(model.processor)(rows)
    assert [model.module.answers[n] for n in batch.labels] == [row.annotations["answers"][0] for row in rows]
    (shown,) = show_sample(model.processor, batch)
    assert shown.plain.endswith(f"answer {int(batch.labels[0])}")
    scalars = run.objective.build()(model.module.train(False), batch)
    scores = model.module.answer_logits(batch).log_softmax(-1)
    expected = -sum(scores[row, batch.labels[row]] for row in range(3)) / 3
    assert scalars["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    asked = [row.conversation.messages[:1] for row in rows]
    said = [reply.text for reply in model.generate([Conversation(turns) for turns in asked])]
    model.save(tmp_path / "model")
    again = load(tmp_path / "model").generate([Conversation(turns) for turns in asked])
    assert [reply.text for reply in again] == said and set(said) <= set(run.collate.labels)


def test_sounds_are_bound_to_stored_pictures_and_the_model_is_read_again(tmp_path) -> None:
    run = find_recipe("imagebind_cells_sounds").run()
    model = run.model.build("imagebind", seed=0)
    choose_trainable(model.module, run)
    stored = frozen_features(model.module, model.processor, tmp_path / "features")
    samples = list(open_named("scenes:train:sounds?size=64&nouns=12&count=3"))
    batches = [run.collate.build(processor)(samples) for processor in (stored.processor, model.processor)]
    losses = [_loss(run, model.module, batch) for batch in (stored.fill(batches[0]), batches[1])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and stored.report()["computed"] == 3
    for part, parameter in model.module.named_parameters():
        assert (parameter.grad is not None) == part.startswith(("towers.audio.", "projections.audio.")), part
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    seen = [one.embed_images([picture(0, 40, 30)]) for one in (model, again)]
    assert torch.equal(*seen)
