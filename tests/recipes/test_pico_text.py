"""The pico language model's recipe at a tiny size: it learns, writes what the loader reads, and starts as it should."""

import json
import random
from pathlib import Path

import pytest
import torch

from chiasm.core.config import from_dict
from chiasm.data.text import documents as writing
from chiasm.data.text.documents import told
from chiasm.data.worlds.world import Scenes
from chiasm.language.decoder import DecoderConfig
from chiasm.processing.tokenizer import Tokenizer
from chiasm.recipes.pico_text import PicoText, WeighedText, pico_text, start
from chiasm.recipes.run import Run
from chiasm.training.config import Group, LoopConfig
from chiasm.training.loop import train
from chiasm.weights.checkpoint import load_state, open_checkpoint
from chiasm.weights.layouts import native

TINY = PicoText(vocab_size=400, hidden_dim=32, num_layers=1, num_heads=2, num_kv_heads=1, mlp_dim=48, length=32)


def few(seed: int, definitions: int, scenes: int, quizzes: int, drills: int):  # type: ignore[no-untyped-def]
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
        assert torch.allclose(ours, theirs, atol=1e-3), name
    tokenizer = Tokenizer.from_folder(folder)
    assert len(tokenizer) == 400 and tokenizer.eos_ids == (2,) and tokenizer.chat_template


def test_batches_are_functions_of_their_number_and_some_are_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "documents", few)
    run = Run(task=TINY, batch_size=8)
    feed, again = TINY.build(run, tmp_path).feed, TINY.build(run, tmp_path).feed
    for number in (0, 5, 7):
        (ids, weights), (others, _) = feed(number), again(number)
        assert torch.equal(ids, others) and ids.shape == weights.shape
        assert ids.shape == ((2, 129) if number == 7 else (8, 33))
    assert feed.fingerprint == again.fingerprint


def test_an_answers_token_weighs_more() -> None:
    module = TINY.decoder().build()
    start(module)
    assert float(module.blocks[0].attn.q_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(module.blocks[0].mlp.down_proj.weight.detach().std()) == pytest.approx(0.02 / 2**0.5, rel=0.1)
    ids = torch.randint(400, (2, 9))
    weights = torch.ones(2, 9)
    weights[:, 4] = 8
    told = WeighedText()(module, (ids, weights))
    logits = module.logits(module(module.embed_tokens(ids[:, :-1])))
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    assert told["loss"].item() == pytest.approx((losses * weights[:, 1:]).sum().item() / 30, rel=1e-5)
    assert told["answers"].item() == pytest.approx(losses[:, 3].mean().item(), rel=1e-5)
    assert WeighedText().weight((ids, weights)) == 30


def test_the_recipe_is_about_five_million_parameters() -> None:
    run = pico_text()
    assert isinstance(run.task, PicoText)
    with torch.device("meta"):
        module = run.task.decoder().build()
    assert 4_500_000 < sum(parameter.numel() for parameter in module.parameters()) < 5_000_000
