"""LoRA: starts as nothing, learns alone, folds away exactly."""

import pytest
import torch
from torch import nn

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.nn.lora import (
    LoRALinear,
    add_lora,
    fold_lora,
    fold_lora_state,
    lora_state,
    merge_lora,
    unfold_lora,
)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3, bias=False))


def trained():
    model = net()
    add_lora(model, "0|2", rank=2, alpha=6.0)
    for name, parameter in model.named_parameters():
        if "lora_b" in name:
            nn.init.normal_(parameter)
    return model


def test_it_starts_as_nothing_and_only_it_learns():
    x, plain, adapted = torch.randn(5, 6), net(), net()
    assert add_lora(adapted, "0|2", rank=2, alpha=4.0) == ["0", "2"]
    torch.testing.assert_close(adapted(x), plain(x), rtol=0, atol=0)
    adapted(x).sum().backward()
    learning = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert learning == {"0.lora_a", "0.lora_b", "2.lora_a", "2.lora_b"}
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


def test_merging_and_folding_equal_the_adapted_module():
    x, model = torch.randn(5, 6), trained()
    expected, state = model(x).detach(), lora_state(model)
    folded = fold_lora_state(net(), state)
    torch.testing.assert_close(folded(x), expected, rtol=1e-5, atol=1e-5)
    merged = merge_lora(model)
    assert not any(isinstance(layer, LoRALinear) for layer in merged.modules())
    torch.testing.assert_close(merged(x), expected, rtol=1e-5, atol=1e-5)


def test_folding_is_undone_to_the_bit():
    x, model = torch.randn(5, 6), trained().to(torch.bfloat16)
    before, expected = {n: p.clone() for n, p in model.named_parameters()}, model(x.bfloat16())
    fold_lora(model)
    fold_lora(model)
    torch.testing.assert_close(model(x.bfloat16()), expected, rtol=0.05, atol=0.05)
    assert not torch.equal(model[0].base.weight, before["0.base.weight"])
    unfold_lora(model)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert torch.equal(model(x.bfloat16()), expected)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="lora_no_match"):
        add_lora(net(), "7", rank=2, alpha=1.0)
    with pytest.raises(ConfigError, match="lora_rank"):
        add_lora(net(), "0", rank=0, alpha=1.0)
    state = lora_state(trained())
    with pytest.raises(CheckpointError, match="lora_mismatch"):
        fold_lora_state(net(), {name: tensor for name, tensor in state.items() if name != "0.lora_a"})
    with pytest.raises(CheckpointError, match="lora_mismatch"):
        fold_lora_state(net(), {**state, "0.lora_b": state["0.lora_b"][:4]})
