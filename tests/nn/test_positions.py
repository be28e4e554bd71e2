"""xPos against the paper's equation, and inside the language model that uses it."""

import math
from dataclasses import replace

import torch
from tests.invariants.decoding import decoded_beside_whole

import chiasm
from chiasm.models import kosmos
from chiasm.models.languages import magneto
from chiasm.models.model import Model
from chiasm.nn.positions import XPosConfig, rotate, xpos_tables
from chiasm.weights.load import initialise, writer_for


def test_scores_are_the_papers() -> None:
    """Sun et al. 2022, eq. 12: Re[q ζ^(n/base) e^(iθn) · conj(k) ζ^(−m/base) e^(−iθm)] summed over pairs."""
    config, width, length = XPosConfig(scale_base=32.0), 8, 6
    q, k = torch.randn(2, 1, 1, length, width, generator=torch.manual_seed(0), dtype=torch.float64)
    positions = torch.tensor([[3, 4, 5, 6, 9, 40]])
    tables = xpos_tables(positions, config.frequencies(width), config.fading(width), torch.float64)
    ours = rotate(q, tables[:2]) @ rotate(k, tables[2:]).transpose(2, 3)
    half = width // 2
    for a in range(length):
        for b in range(length):
            n, m, total = int(positions[0, a]), int(positions[0, b]), 0.0
            for c in range(half):
                zeta = (c / half + 0.4) / 1.4
                theta = 10000 ** (-2 * c / width)
                x = (
                    complex(q[0, 0, a, c], q[0, 0, a, c + half])
                    * zeta ** (n / 32)
                    * complex(math.cos(n * theta), math.sin(n * theta))
                )
                y = (
                    complex(k[0, 0, b, c], k[0, 0, b, c + half])
                    * zeta ** (-m / 32)
                    * complex(math.cos(m * theta), math.sin(m * theta))
                )
                total += (x * y.conjugate()).real
            assert abs(ours[0, 0, a, b].item() - total) <= 1e-5 * max(1.0, abs(total)), (n, m)


def test_kosmos_1_decodes_with_it_and_is_saved(tmp_path) -> None:
    assert isinstance(kosmos.PRESETS["kosmos_1"].language.rotary, XPosConfig)
    config, processor = kosmos.tiny()
    size = config.language.vocab_size
    language = magneto(size, 48, 2, 4, mlp=96, context=512, rotary=XPosConfig(scale_base=64.0))
    config = replace(config, language=language)
    model = Model(initialise(config), processor, kosmos.FAMILY, config, writer=writer_for(config))
    batch = model.processor([[{"role": "user", "content": text}] for text in ("what is it?", "no")])
    assert decoded_beside_whole(model.module, batch, 3) <= 1e-5
    with torch.no_grad():
        full = model.module(batch)[:, -4:]
        model.save(tmp_path / "kosmos-1")
        again = chiasm.load(tmp_path / "kosmos-1")
        assert again.config == config and (again.module(batch)[:, -4:] - full).abs().max() <= 2e-6
