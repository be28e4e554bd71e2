"""Losses of the fusing systems against loops written from the papers, and their objective on ALBEF and BLIP."""

from __future__ import annotations

import math

import pytest
import torch
from tests.nn.test_transport import by_the_book
from tests.parity.test_families import picture

import chiasm
from chiasm.core.errors import ConfigError, DataError
from chiasm.objectives.fusion import AlignAndFuse, MaskedText, WrittenText
from chiasm.objectives.hinge import hinge_loss
from chiasm.objectives.masked import mask_words
from chiasm.objectives.matching import hard_negatives
from chiasm.objectives.momentum import EmbeddingQueue, distilled_contrast, distilled_words, follow, momentum_copy, ramp
from chiasm.objectives.word_patch import word_patch_loss

LOOP = 1e-6


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.manual_seed(seed)), dim=-1)


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    return [math.exp(x - top) / sum(math.exp(y - top) for y in row) for x in row]


@pytest.mark.parametrize("hardest", [False, True])
def test_hinge_is_the_papers_sum(hardest) -> None:
    s, n, margin = (unit(6, 4) @ unit(6, 4, seed=1).T).requires_grad_(), 6, 0.2
    total = 0.0
    for i in range(n):
        texts = [max(0.0, margin - s[i, i].item() + s[i, j].item()) for j in range(n) if j != i]
        images = [max(0.0, margin - s[i, i].item() + s[j, i].item()) for j in range(n) if j != i]
        total += max(texts) + max(images) if hardest else sum(texts) + sum(images)
    loss = hinge_loss(s, margin, hardest=hardest)
    assert abs(loss.item() - total) <= 5 * LOOP
    assert torch.autograd.grad(loss, s)[0].abs().sum() > 0


def test_word_patch_alignment_is_the_papers_sum() -> None:
    words, patches = torch.randn(2, 4, 8, generator=torch.manual_seed(0)), torch.randn(2, 6, 8)
    real_words, real_patches = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool)
    real_words[1, 2:], real_patches[0, 5] = False, False
    belongs, total = torch.tensor([True, False]), 0.0
    for b in range(2):
        x, y = words[b][real_words[b]], patches[b][real_patches[b]]
        cost = [[1 - (u @ v / u.norm() / v.norm()).item() for v in y] for u in x]
        plan = by_the_book(cost, 0.5, 50)
        moved = sum(p * c for row, costs in zip(plan, cost, strict=True) for p, c in zip(row, costs, strict=True))
        total += moved if belongs[b] else -moved
    assert abs(word_patch_loss(words, patches, real_words, real_patches, belongs).item() - total / 2) <= LOOP


def test_momentum_distillation_is_the_papers_sum() -> None:
    images, texts, images_m, texts_m = (unit(3, 8, seed=seed) for seed in range(4))
    queue, tau, alpha = EmbeddingQueue(8, 5), 0.3, 0.4
    loss, to_texts, to_images = distilled_contrast(images, texts, images_m, texts_m, queue, tau, alpha)
    total = 0.0
    for own, own_m, others in (
        (images, images_m, torch.cat((texts_m, queue.texts))),
        (texts, texts_m, torch.cat((images_m, queue.images))),
    ):
        for i in range(3):
            p = softmax([(own[i] @ other).item() / tau for other in others])
            q = softmax([(own_m[i] @ other).item() / tau for other in others])
            y = [alpha * share + (1 - alpha) * (j == i) for j, share in enumerate(q)]
            total -= sum(target * math.log(chance) for target, chance in zip(y, p, strict=True)) / 3 / 2
    assert abs(loss.item() - total) <= LOOP
    assert to_texts.shape == to_images.shape == (3, 3)


def test_distilled_words_are_the_papers_sum() -> None:
    logits, teacher = torch.randn(2, 3, 7, generator=torch.manual_seed(0)), torch.randn(2, 3, 7)
    labels = torch.tensor([[1, -100, 4], [-100, 6, -100]])
    total, asked = 0.0, [(0, 0), (0, 2), (1, 1)]
    for b, t in asked:
        p, q = softmax(logits[b, t].tolist()), softmax(teacher[b, t].tolist())
        hard = -math.log(p[labels[b, t]])
        total += 0.6 * hard - 0.4 * sum(y * math.log(x) for x, y in zip(p, q, strict=True))
    assert abs(distilled_words(logits, teacher, labels, 0.4).item() - total / 3) <= LOOP


def test_hard_negatives_are_drawn_by_the_softmax_and_are_never_the_own() -> None:
    torch.manual_seed(0)
    similarity = torch.tensor([[3.0, 1.0, 0.0], [2.0, 5.0, 1.0], [0.0, 0.0, 0.0]])
    drawn = torch.stack([hard_negatives(similarity) for _ in range(4000)])
    for row in range(3):
        others = [j for j in range(3) if j != row]
        weights = [math.exp(similarity[row, j]) for j in others]
        assert not (drawn[:, row] == row).any()
        for j, weight in zip(others, weights, strict=True):
            assert (drawn[:, row] == j).float().mean().item() == pytest.approx(weight / sum(weights), abs=0.03)
    sure = torch.full((3, 3), -500.0).fill_diagonal_(500.0)
    assert (hard_negatives(sure) != torch.arange(3)).all()
    with pytest.raises(DataError, match="batch_of_one"):
        hard_negatives(torch.zeros(1, 1))
    with pytest.raises(DataError, match="batch_of_one"):
        hinge_loss(torch.zeros(1, 1), 0.2, hardest=True)


def test_masked_words_are_asked_for_whole_and_in_the_papers_shares() -> None:
    torch.manual_seed(0)
    ids = torch.randint(10, 1000, (400, 30))
    maskable = torch.ones_like(ids, dtype=torch.bool)
    maskable[:, 0], maskable[:, -1] = False, False
    starts = torch.rand(ids.shape) < 0.6
    hidden, labels = mask_words(ids, maskable, mask_id=3, vocab_size=1000, starts=starts)
    asked = labels != -100
    assert not asked[~maskable].any() and (labels[asked] == ids[asked]).all()
    assert (hidden[~asked] == ids[~asked]).all()
    assert asked[maskable].float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert (hidden[asked] == 3).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (hidden[asked] == ids[asked]).float().mean().item() == pytest.approx(0.1, abs=0.03)
    pieces = maskable[:, 1:] & maskable[:, :-1] & ~starts[:, 1:]
    assert (asked[:, 1:][pieces] == asked[:, :-1][pieces]).all()
    _, single = mask_words(ids, maskable, mask_id=3, vocab_size=1000)
    assert ((single != -100)[:, 1:][pieces] != (single != -100)[:, :-1][pieces]).any()


def test_the_queue_forgets_the_oldest_and_carries_no_graph() -> None:
    queue = EmbeddingQueue(2, 5)
    for step in range(4):
        queue.push(torch.full((2, 2), float(step), requires_grad=True), torch.full((2, 2), -float(step)))
    assert queue.images[:, 0].tolist() == [2.0, 3.0, 3.0, 1.0, 2.0] and queue.pointer == 3
    assert not queue.images.requires_grad and (queue.texts == -queue.images).all()
    queue.push(torch.arange(14.0).view(7, 2), torch.zeros(7, 2))
    assert sorted(queue.images[:, 0].tolist()) == [4.0, 6.0, 8.0, 10.0, 12.0]


def test_a_copy_follows_and_learns_nothing() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    twin = momentum_copy(module)
    assert not list(twin.parameters()) and set(twin.state_dict()) == set(module.state_dict())
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1
    follow(twin, module, 0.9)
    for name, value in twin.state_dict().items():
        assert torch.allclose(value, 0.9 * before[name] + 0.1 * module.state_dict()[name])
    assert [ramp(0.4, step, 4) for step in (0, 2, 4, 9)] == [0.0, 0.2, 0.4, 0.4] and ramp(0.4, 0, 0) == 0.4


def words_for(name: str, tokenizer) -> MaskedText | WrittenText:
    if name == "blip":
        return WrittenText(start_id=tokenizer.token_to_id("[DEC]"))
    return MaskedText(mask_id=tokenizer.token_to_id("[MASK]"), control_ids=tuple(sorted(tokenizer.control_ids)))


def pairs(model, count: int = 4):
    texts = ["a red cat", "two dogs and a yellow ball", "the blue boat", "there are birds", "a man"][:count]
    return model.processor.pairs([picture(seed, 40, 30) for seed in range(count)], texts)


@pytest.mark.parametrize("name", ["albef", "blip"])
def test_the_objective_learns_and_keeps_its_size(name) -> None:
    torch.manual_seed(0)
    model = chiasm.new(name)
    module = model.module.train()
    objective = AlignAndFuse(
        text=words_for(name, model.processor.tokenizer), queue_size=8, ramp_steps=10, floor=1e-4
    ).build()
    objective.prepare(module, rows=100)
    assert not list(objective.parameters())
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    batch, sizes, losses = pairs(model), set(), []
    for step in range(1, 41):
        scalars = objective(module, batch)
        optimizer.zero_grad()
        scalars["loss"].backward()
        optimizer.step()
        objective.after_step(module, step)
        losses.append(scalars["loss"].item())
        sizes.add(sum(buffer.numel() for buffer in objective.buffers()))
        assert not any(buffer.requires_grad or buffer.grad_fn for buffer in objective.buffers())
    assert len(sizes) == 1
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert set(scalars) == {"loss", "contrast", "match", "words", "match_accuracy"}
    assert abs(scalars["loss"] - scalars["contrast"] - scalars["match"] - scalars["words"]) <= 1e-5
    fresh = AlignAndFuse(text=objective.config.text, queue_size=8).build()
    fresh.prepare(module)
    fresh.load_state_dict(objective.state_dict())
    assert int(fresh.step) == 40 and torch.equal(fresh.queue.images, objective.queue.images)


def test_a_queue_counts_from_its_step_on_and_fills_before() -> None:
    model = chiasm.new("albef")
    alone, late, early = (
        AlignAndFuse(queue_size=size, queue_from=after, matching=False).build()
        for size, after in ((None, 0), (8, 1), (8, 0))
    )
    losses = []
    for objective in (alone, late, early):
        objective.prepare(model.module, rows=100)
    late.queue.load_state_dict(early.queue.state_dict())
    for step in (1, 2):
        losses.append([objective(model.module, pairs(model))["contrast"].item() for objective in (alone, late, early)])
        for objective in (alone, late, early):
            objective.after_step(model.module, step)
    assert losses[0][0] == losses[0][1] < losses[0][2]
    assert losses[1][1] == losses[1][2] > losses[1][0]
    assert int(late.queue.pointer) == 0 and torch.equal(late.queue.images[:4], late.queue.images[4:])


def test_bad_sizes_are_refused_with_both_numbers() -> None:
    model = chiasm.new("albef")
    with pytest.raises(ConfigError, match="a queue of 64 pairs, a data set of 20"):
        AlignAndFuse(queue_size=64).build().prepare(model.module, rows=20)
    with pytest.raises(ConfigError, match="queue_without_copy"):
        AlignAndFuse(queue_size=64, momentum=None).build()
    with pytest.raises(ConfigError, match="queue_size"):
        EmbeddingQueue(4, 0)
    with pytest.raises(DataError, match="a batch of 1 pair"):
        AlignAndFuse(queue_size=None).build()(model.module, pairs(model, 1))
