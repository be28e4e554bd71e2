"""BERT's two modes and its visible cross-attention against the plain forms."""

from __future__ import annotations

import torch

from chiasm.language.bert import BertConfig, CrossConfig
from chiasm.nn.fusion_blocks import Context, attend_visibly, context_mask


def config(twin: bool = False) -> BertConfig:
    cross = CrossConfig(context_dim=24, first_layer=1)
    return BertConfig(
        vocab_size=40, context_length=16, hidden_dim=32, num_layers=3, num_heads=4, mlp_dim=48, cross=cross, twin=twin
    )


def test_a_twin_is_two_towers_that_share_all_but_self_attention() -> None:
    torch.manual_seed(0)
    twin, alone = config(twin=True).build(), config().build()
    for parameter in twin.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {name: value for name, value in twin.state_dict().items() if ".causal_" not in name}
    alone.load_state_dict(state)
    ids, context = torch.randint(0, 40, (2, 7)), Context(torch.randn(2, 5, 24))
    both = twin.encode(twin.embed(ids), context=context), alone.encode(alone.embed(ids), context=context)
    assert torch.equal(*both)
    renamed = {name.replace(".causal_attn.", ".attn.").replace(".causal_norm.", ".norm1."): value
               for name, value in twin.state_dict().items() if ".causal_" in name}  # fmt: skip
    alone.load_state_dict({**state, **renamed})
    both = (
        twin.encode(twin.embed(ids), context=context, causal=True),
        alone.encode(alone.embed(ids), context=context, causal=True),
    )
    assert torch.equal(*both)


def test_layers_below_the_first_that_crosses_read_text_alone() -> None:
    torch.manual_seed(0)
    bert = config().build()
    ids, context = torch.randint(0, 40, (2, 7)), Context(torch.randn(2, 5, 24))
    lower = bert.encode(bert.embed(ids), context=context, layers=range(1))
    assert torch.equal(lower, bert.encode(bert.embed(ids), layers=range(1)))
    whole = bert.encode(lower, context=context, layers=range(1, 3))
    assert torch.equal(whole, bert.encode(bert.embed(ids), context=context))


def test_visible_attention_equals_the_fast_one_with_gradients() -> None:
    torch.manual_seed(0)
    attn = config().cross_attention(2).build()
    attend = torch.tensor([[True] * 5, [True, True, False, True, False]])
    results = []
    for visible in (False, True):
        x, states = torch.randn(2, 3, 32, generator=torch.manual_seed(1)), torch.randn(2, 5, 24)
        x.requires_grad_(), states.requires_grad_()
        record: list[torch.Tensor] = []
        mask = context_mask(attend)
        out = attend_visibly(attn, x, states, mask, record) if visible else attn(x, states, mask=mask)
        attn.zero_grad()
        out.square().sum().backward()
        results.append([out, x.grad, states.grad, *(p.grad for p in attn.parameters())])
        if visible:
            assert torch.allclose(record[0].sum(-1), torch.ones(2, 4, 3))
            assert not record[0][1, :, :, [2, 4]].any()
    for fast, slow in zip(*results, strict=True):
        assert (fast - slow).abs().max() <= 1e-5
