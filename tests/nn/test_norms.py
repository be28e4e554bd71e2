"""RMSNorm of one token, which has a way of its own, beside torch's."""

from __future__ import annotations

import torch

from chiasm.nn.norms import RMSNorm


def test_one_token_is_normalised_as_many_are() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(48, eps=1e-3)
    norm.weight.data = torch.rand(48) + 0.5
    rows = torch.randn(5, 1, 48) * torch.tensor([1e-3, 0.1, 1.0, 30.0, 1e4])[:, None, None]
    expected = torch.nn.functional.rms_norm(rows, (48,), norm.weight, 1e-3)
    with torch.no_grad():
        alone = torch.stack([norm(row[None])[0] for row in rows])
        assert torch.equal(norm(rows), expected)
    assert not torch.equal(alone, expected), "both went one way: the test shows nothing"
    assert torch.allclose(alone, expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(torch.stack([norm(row[None])[0] for row in rows]), expected)  # gradients need torch's
    with torch.no_grad():
        assert not norm(torch.zeros(1, 1, 48)).any()
