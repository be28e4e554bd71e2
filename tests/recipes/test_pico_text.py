"""The pico language model's recipe at a tiny size: it learns, writes what the loader reads, and starts as it should."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chiasm.core.config import from_dict
from chiasm.data.text import documents as writing
from chiasm.data.text.documents import Document, told
from chiasm.data.text.rows import Rows
from chiasm.data.worlds.world import Scenes
from chiasm.language.decoder import DecoderConfig
from chiasm.nn.attention import rotate
from chiasm.processing.tokenizer import Tokenizer
from chiasm.recipes.pico_text import PicoText, WeighedText, pico_text, start_copying
from chiasm.recipes.run import Run
from chiasm.training.config import Group, LoopConfig
from chiasm.training.loop import train
from chiasm.weights.checkpoint import load_state, open_checkpoint
from chiasm.weights.layouts import native

TINY = PicoText(vocab_size=700, hidden_dim=32, num_layers=2, num_heads=2, mlp_dim=48, length=32, context=128, first=0)


def few(seed: int, counts: Mapping[str, int]) -> list[Document]:
    return [told(sample, random.Random(0)) for sample in Scenes("train", ["naming", "attribute"], 120)]


def test_it_learns_and_writes_what_the_loader_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "documents", few)
    run = Run(task=TINY, steps=24, batch_size=8)
    task = TINY.build(run, tmp_path)
    before = task.objective(task.module, task.feed(0))["loss"].item()
    config = LoopConfig(steps=run.steps, groups=(Group(learning_rate=1e-2),))
    done = train(task.module, task.objective, task.feed, config, tmp_path)
    assert done.step == 24 and done.loss < 0.75 * before
    task.finish(tmp_path)
    folder = tmp_path / "model"
    decoder = from_dict(DecoderConfig, json.loads((folder / "config.json").read_text()))
    assert decoder == TINY.decoder() and decoder.context_length == 128
    module = decoder.build()
    load_state(module, open_checkpoint(folder), native.table(decoder), dtype=torch.float32)
    for (name, ours), theirs in zip(task.module.named_parameters(), module.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3), name
    tokenizer = Tokenizer.from_folder(folder)
    assert len(tokenizer) == 700 and tokenizer.eos_ids == (2,) and tokenizer.chat_template


def test_batches_are_functions_of_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "documents", few)
    run = Run(task=TINY, batch_size=8)
    feed, again = TINY.build(run, tmp_path).feed, TINY.build(run, tmp_path).feed
    for number in (0, 5, 7):
        rows = feed(number)
        assert rows.ids.equal(again(number).ids) and rows.ids.shape == rows.weights.shape
        assert rows.ids.numel() <= 8 * 32 or len(rows.ids) == 1
    assert feed.fingerprint == again.fingerprint


def test_lookups_come_first_and_a_second_half_goes_on_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed(seed: int, counts: Mapping[str, int]) -> list[Document]:
        return [*few(seed, counts), *writing._looked_up(seed, 40, True)]

    monkeypatch.setattr(writing, "documents", mixed)
    config = replace(TINY, first=2)
    first = config.build(Run(task=config, batch_size=8), tmp_path / "first")
    assert not (first.feed(0).ids[:, 0] == 1).any() and not first.feed(0).shown.any()  # no turns, nothing blurred
    assert any((first.feed(number).ids[:, 0] == 1).any() for number in range(2, 12))
    first.finish(tmp_path / "first")
    run = Run(task=config, batch_size=8, init_from=str(tmp_path / "first"), seed=1)
    second = config.build(run, tmp_path / "second")
    weights = zip(first.module.parameters(), second.module.parameters(), strict=True)
    assert all(torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3) for ours, theirs in weights)


def rows(weights: torch.Tensor, shown: torch.Tensor | None = None) -> Rows:
    ids = torch.randint(700, weights.shape)
    return Rows(ids, weights, torch.zeros_like(ids, dtype=torch.bool) if shown is None else shown)


def test_an_answers_token_weighs_more_and_a_questions_nothing() -> None:
    module = TINY.decoder().build()
    start_copying(module)
    weights = torch.ones(2, 9)
    weights[:, 4], weights[:, 6] = 8, 0
    batch = rows(weights)
    told = WeighedText()(module, batch)
    logits = module.logits(module(module.embed_tokens(batch.ids[:, :-1])))
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.ids[:, 1:], reduction="none")
    assert told["loss"].item() == pytest.approx((losses * weights[:, 1:]).sum().item() / 28, rel=1e-4)
    assert told["answers"].item() == pytest.approx(losses[:, 3].mean().item(), rel=1e-4)
    assert WeighedText().weight(batch) == 28


def test_only_what_is_shown_is_blurred() -> None:
    module = TINY.decoder().build()
    start_copying(module)
    shown = torch.zeros(2, 9, dtype=torch.bool)
    shown[:, 2:5] = True
    embeds = module.embed_tokens(torch.randint(700, (2, 9)))
    blurred = WeighedText(1.0)._blurred(embeds, shown)
    assert torch.equal(blurred[~shown], embeds[~shown]) and not (blurred[shown] == embeds[shown]).any()
    assert float((blurred - embeds).detach()[shown].std()) < 1.1 * float(embeds.detach().std())


def test_it_starts_by_looking_back_and_copying() -> None:
    module = TINY.decoder().build()
    torch.manual_seed(0)
    start_copying(module)
    assert float(module.blocks[0].mlp.gate_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(module.blocks[0].mlp.down_proj.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    attn = module.blocks[0].attn
    ids = torch.randint(700, (1, 12))
    with torch.no_grad():
        states = module.blocks[0].norm1(module.embed_tokens(ids))
        turn = module._rotary(torch.arange(12)[None], torch.float32, None)
        q, k = (rotate(proj(states).view(1, 12, 2, 16).transpose(1, 2), turn) for proj in (attn.q_proj, attn.k_proj))
    scores = (q @ k.transpose(-1, -2))[0]  # (H, T, T)
    for head in range(2):
        for place in range(4, 12):
            assert int(scores[head, place, : place + 1].argmax()) == place - 1 - head


def test_the_recipe_is_about_two_million_parameters() -> None:
    run = pico_text()
    assert isinstance(run.task, PicoText)
    with torch.device("meta"):
        module = run.task.decoder().build()
    assert 2_000_000 < sum(parameter.numel() for parameter in module.parameters()) < 2_500_000
