"""The count from shapes against torch's own counter, which watches the operators that really run, for every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.gallery import rgb
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import chiasm
from chiasm.evaluation.flops import FlopCounter, count_flops

FAMILIES = sorted(chiasm.families())


def forward(model: Any) -> Any:
    """A function that runs a family's module on something it takes, ending in one number; None where nothing fits."""
    has = model.capabilities
    if "generate" in has:
        turn = [
            {
                "role": "user",
                "content": [{"type": "image", "image": rgb(60, 50)}, {"type": "text", "text": "what is it"}],
            }
        ]
        batch = model.processor([turn])

        def run() -> torch.Tensor:
            found = model.module(batch)
            return (found if isinstance(found, torch.Tensor) else found[0]).float().sum()

        return run
    if "embed" in has:
        pixels = model.processor.images([rgb(60, 50)]).pixel_values
        texts = model.processor.texts(["a dog"])

        def both() -> torch.Tensor:
            images = model.module.embed_images(pixels)
            return images.sum() + model.module.embed_texts(texts.input_ids, texts.attention_mask).sum()

        return both
    if "match" in has:
        return lambda: model.match([rgb(60, 50)], ["a dog"])
    return None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_within_one_percent(family: str) -> None:
    model = chiasm.new(family, tiny=True)
    run = forward(model)
    if run is None:
        pytest.fail(f"no way to run {family}")
    theirs = FlopCounterMode(display=False)
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)  # torch's counter hooks into autograd wherever a parameter could learn
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), theirs:
        run()
    assert count_flops(run) == pytest.approx(theirs.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("frozen", [(), ("vision",), ("language",)])
def test_a_training_step_with_frozen_parts(frozen: tuple[str, ...]) -> None:
    model = chiasm.new("llava", tiny=True)
    model.module.requires_grad_(True)
    for name in frozen:
        getattr(model.module, name).requires_grad_(False)
    run = forward(model)
    theirs = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), theirs:
        run().backward()
    assert count_flops(run, training=True) == pytest.approx(theirs.get_total_flops(), rel=0.01)


def test_operations_by_hand() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert count_flops(lambda: a @ b) == 2 * 3 * 4 * 5
    assert count_flops(
        lambda: torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8), torch.ones(6, 3, 2, 2), stride=2)
    ) == (2 * 6 * 4 * 4 * 3 * 2 * 2)
    q = torch.ones(1, 2, 7, 8)
    assert count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)) == 2 * 2 * 7 * 7 * 16
    counter = FlopCounter()
    weight = torch.ones(5, 4, requires_grad=True)
    with counter:
        torch.nn.functional.linear(a, weight)
    assert (counter.forward, counter.backward) == (120, 120), "only the weight needs a gradient"
