"""The soft-word connector: what it says of cells that are sure, how it counts, and where gradients go."""

from dataclasses import replace

import torch

from chiasm.connectors.soft_words import SoftWordConnector, SoftWordsConfig

CONFIG = SoftWordsConfig(
    input_dim=6,
    output_dim=16,
    num_positions=25,
    hidden_dim=8,
    num_layers=1,
    num_heads=2,
    words=(4, 3, 5),
    tokens=(2, 2, 1),
    num_slots=4,
)


class Sure(SoftWordConnector):
    """Every cell points where it is told."""

    def __init__(self, names: list[int], places: list[int]) -> None:
        super().__init__(CONFIG)
        torch.manual_seed(1)
        basis = torch.eye(16)
        self.match_0.copy_(basis[:4])
        self.match_1.copy_(basis[4:7])
        self.nothing.data.copy_(basis[7])
        self.log_scale.data.fill_(4.0)
        self.log_sharpness.data.fill_(3.0)
        self.told = torch.stack(
            [basis[7] if n < 0 else basis[n] + basis[4 + p] for n, p in zip(names, places, strict=True)]
        )[None]

    def directions(self, features: torch.Tensor) -> torch.Tensor:
        return self.told


def test_sure_cells_are_spoken_of_in_reading_order_with_their_counts():
    names, places = [-1] * 25, [0] * 25
    names[1], names[9], names[20], places[1], places[9] = 2, 0, 2, 1, 2
    connector = Sure(names, places)
    said = connector(torch.zeros(1, 25, 6)).view(4, 5, 16)
    expected = [(2, 1, 2), (0, 2, 1), (2, 0, 2)]  # name, place, count, in reading order
    found = []
    for phrase in said.detach():
        for name, place, count in set(expected):
            words = torch.cat((connector.phrase_0[name], connector.phrase_1[place], connector.phrase_2[count - 1]))
            if torch.allclose(phrase, words, atol=1e-3):
                found.append((name, place, count))
    assert found == expected
    silent = [phrase for phrase in said.detach() if torch.allclose(phrase, connector.silence, atol=1e-3)]
    assert len(silent) == 1


def test_counts_do_not_depend_on_which_name_is_doubted():
    connector = Sure([-1, 1, -1, -1, 1, -1, 1] + [-1] * 18, [0] * 25)
    doubt = connector.told.clone()
    doubt[:, [1, 4, 6], 3] = 1.0  # name 1 or name 3, even odds, for the same three cells
    connector.told = doubt
    many = connector.logits(doubt)[2]
    assert many[0, [1, 4, 6]].argmax(-1).tolist() == [2, 2, 2]


def test_shapes_and_gradients():
    connector = CONFIG.build()
    features = torch.randn(2, 25, 6)
    connector.standardise(features)
    tokens = connector(features)
    assert tokens.shape == (2, CONFIG.num_tokens, 16) and CONFIG.num_tokens == 20
    tokens.square().sum().backward()
    silent = {name for name, parameter in connector.named_parameters() if parameter.grad is None}
    assert silent == {"log_sharpness"}  # of sums, which are learned from and not spoken of
    connector.logits(connector.directions(features))[2].sum().backward()
    assert connector.log_sharpness.grad is not None


def test_a_thing_that_shows_in_two_cells_is_counted_once_and_doubt_finds_more():
    connector = CONFIG.build()
    what = torch.zeros(1, 25, 5)
    what[..., 4] = 6.0  # nothing
    what[0, 12, 1], what[0, 13, 1], what[0, 4, 1] = 9.0, 7.0, 3.0
    names, _, found = connector.find(what)
    assert found[0].nonzero().flatten().tolist() == [12]
    assert connector.counts(names, found)[0, 12].argmax() == 0
    object.__setattr__(connector, "config", replace(CONFIG, doubt=4.0))
    names, sure, found = connector.find(what)
    assert found[0, [4, 12]].all() and sure[0, 4] > 0.5
    assert connector.counts(names, found)[0, 12].argmax() >= 1


def test_bfloat16_says_what_float32_says():
    torch.manual_seed(0)
    connector, features = CONFIG.build(), torch.randn(2, 25, 6)
    expected = connector(features)
    said = connector.bfloat16()(features.bfloat16())
    assert said.dtype == torch.bfloat16
    assert (said.float() - expected).abs().mean() < 0.05 * expected.abs().mean()
