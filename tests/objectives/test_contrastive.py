"""Contrastive losses against loops over pairs, values and gradients."""

import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import chiasm
from chiasm.core.batch import Batch
from chiasm.objectives.contrastive import TILE, info_nce, sigmoid_loss
from chiasm.objectives.pairs import InfoNCE, PairwiseSigmoid

Loss = Callable[..., torch.Tensor]


def slow_info_nce(x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    total = x.new_zeros(())
    for i in range(len(x)):
        for a, b, mates in ((x, y, same[i]), (y, x, same[:, i])):
            scores = torch.stack([scale * (a[i] * b[j]).sum() for j in range(len(b))])
            for j in range(len(b)):
                if mates[j]:
                    total = total - (scores[j] - torch.logsumexp(scores, 0)) / mates.sum()
    return total / (2 * len(x))


def slow_sigmoid(
    x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, same: torch.Tensor
) -> torch.Tensor:
    total = x.new_zeros(())
    for i in range(len(x)):
        for j in range(len(y)):
            sign = 1 if same[i, j] else -1
            total = total + torch.log(1 + torch.exp(-sign * (scale * (x[i] * y[j]).sum() + bias)))
    return total / len(x)


@pytest.fixture(params=["diagonal", "groups"])
def case(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(5, 7, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2))
    groups = torch.tensor([0, 1, 0, 2, 1])
    return x, y, groups[:, None] == groups if request.param == "groups" else None


@pytest.mark.parametrize("tile", [1, 10, TILE])
@pytest.mark.parametrize(("fast", "slow", "names"), [(info_nce, slow_info_nce, 1), (sigmoid_loss, slow_sigmoid, 2)])
def test_equals_the_loop_with_gradients(
    fast: Loss, slow: Loss, names: int, case: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], tile: int
) -> None:
    x, y, same = case
    pairs = torch.eye(5, dtype=torch.bool) if same is None else same
    results = []
    for loss, mask in ((partial(fast, tile=tile), same), (slow, pairs)):
        leaves = [t.clone().requires_grad_() for t in (x, y, *torch.tensor([7.0, -2.0], dtype=torch.float64)[:names])]
        value = loss(*leaves, same=mask)
        results.append((value, *torch.autograd.grad(value, leaves)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_known_values() -> None:
    same = torch.ones(4, 3) / math.sqrt(3)  # everything alike: chance
    assert info_nce(same, same, 10.0).item() == pytest.approx(math.log(4))
    assert sigmoid_loss(same, same, 0.0, 0.0).item() == pytest.approx(4 * math.log(2))
    apart = torch.eye(4)
    assert info_nce(apart, apart, 100.0).item() == pytest.approx(0.0, abs=1e-6)
    assert sigmoid_loss(apart, apart, 200.0, -100.0).item() == pytest.approx(0.0, abs=1e-6)


def embeddings(count: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [F.normalize(torch.randn(count, 7, generator=generator), dim=-1) for _ in range(2)]


def value_and_gradients(loss: Loss, *leaves: torch.Tensor) -> list[torch.Tensor]:
    copies = [leaf.clone().requires_grad_() for leaf in leaves]
    value = loss(*copies)
    return [value.detach(), *torch.autograd.grad(value, copies)]


@pytest.mark.parametrize("tile", [20, TILE])
@pytest.mark.parametrize("grouped", [False, True])
def test_smoothing_spreads_a_share_of_the_target(tile: int, grouped: bool) -> None:
    groups = torch.tensor([0, 1, 2, 3, 4, 1, 2, 0, 5, 6, 7, 8])
    same = groups[:, None] == groups if grouped else torch.eye(12, dtype=torch.bool)

    def slow(x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        losses = []
        for logits, mates in ((scale * x @ y.T, same), (scale * y @ x.T, same.T)):
            target = 0.9 * mates / mates.sum(1, keepdim=True) + 0.1 / 12
            losses.append(-(target * logits.log_softmax(1)).sum(1).mean())
        return sum(losses) / 2

    fast = partial(info_nce, same=same if grouped else None, smoothing=0.1, tile=tile)
    case = [*embeddings(), torch.tensor(9.0)]
    for ours, theirs in zip(value_and_gradients(fast, *case), value_and_gradients(slow, *case), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_tiled_loss_holds_no_square() -> None:
    sizes: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.numel())
            return out

    x, y = (t.requires_grad_() for t in embeddings(256))
    with Watch():
        info_nce(x, y, 5.0, tile=2048)
        sigmoid_loss(x, y, 5.0, -3.0, tile=2048)
    assert max(sizes) <= 2048


SCRIPT = """
import sys, torch, torch.distributed as dist, torch.nn.functional as F
from chiasm.objectives.contrastive import info_nce, sigmoid_loss
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
given = torch.load(f"{folder}/given.pt", weights_only=True)
out = []
for loss, rest, options in ((info_nce, 1, {}), (info_nce, 1, {"smoothing": 0.1}), (sigmoid_loss, 2, {})):
    for tile in (16, 1 << 20):
        x, y = (t.chunk(2)[rank].clone().requires_grad_() for t in given[:2])
        others = [t.clone().requires_grad_() for t in given[2:2 + rest]]
        value = loss(x, y, *others, tile=tile, gather=True, **options) / 2  # the mean over processes, as DDP takes it
        out.append([value.detach(), *torch.autograd.grad(value, [x, y, *others])])
torch.save(out, f"{folder}/out{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path) -> None:
    given = [*embeddings(), torch.tensor(6.0), torch.tensor(-2.0)]
    torch.save(given, tmp_path / "given.pt")
    started = [subprocess.Popen([sys.executable, "-c", SCRIPT, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait(120) for process in started] == [0, 0]
    first, second = (torch.load(tmp_path / f"out{rank}.pt", weights_only=True) for rank in (0, 1))
    whole = [
        value_and_gradients(info_nce, *given[:3]),
        value_and_gradients(partial(info_nce, smoothing=0.1), *given[:3]),
        value_and_gradients(sigmoid_loss, *given),
    ]
    for case in range(6):
        (value, x, y, *rest), (value_2, x_2, y_2, *rest_2) = first[case], second[case]
        together = [value + value_2, torch.cat((x, x_2)), torch.cat((y, y_2))]
        together += [a + b for a, b in zip(rest, rest_2, strict=True)]
        for ours, theirs in zip(together, whole[case // 2], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "config"), [("clip", InfoNCE), ("siglip", PairwiseSigmoid)])
def test_gradient_caching_changes_nothing(family: str, config) -> None:
    model = chiasm.new(family)
    texts = model.processor.texts(["a cat", "two dogs", "three birds in a tree", "a house", "the sea"])
    side = model.config.vision.image_size
    batch = Batch(texts.input_ids, texts.attention_mask, torch.randn(5, 3, side, side))
    results = []
    for part in (None, 2):
        model.module.zero_grad()
        loss = config(part=part).build()(model.module, batch)["loss"]
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.module.parameters() if p.grad is not None)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
