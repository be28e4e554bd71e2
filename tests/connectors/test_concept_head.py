"""The two heads of nano-dual: what they add up, and that they begin as they say."""

import torch
import torch.nn.functional as F

from chiasm.connectors.concept_head import ConceptHeadConfig
from chiasm.connectors.residual import ResidualHeadConfig

CONFIG = ConceptHeadConfig(input_dim=6, num_concepts=4, hidden_dim=8, output_dim=5)


def test_concept_head_is_its_equation() -> None:
    torch.manual_seed(0)
    head = CONFIG.build().eval()
    features, names, x, logits = torch.randn(50, 6) * 3 + 1, torch.randn(4, 5), torch.randn(2, 6), torch.randn(2, 4)
    head.standardise(features)
    head.name_concepts(names)
    spread = features.std(0) + 0.05 * features.std()
    learned = head.fc2(F.gelu(head.fc1((x - features.mean(0)) / spread)))
    for row in range(2):
        expected = learned[row] / learned[row].norm()
        for k in range(4):
            share = logits[row].exp()[k] / logits[row].exp().sum()
            expected = expected + CONFIG.init_weight * share * (names[k] - names.mean(0))
        torch.testing.assert_close(head(x, logits)[row], expected)


def test_a_certain_class_wins_and_an_unsure_classifier_leaves_it_to_the_mlp() -> None:
    torch.manual_seed(0)
    head = CONFIG.build().eval()
    head.name_concepts(F.normalize(torch.randn(4, 5), dim=-1))
    x = torch.randn(1, 6)
    learned = F.normalize(head.fc2(F.gelu(head.fc1(x))), dim=-1)
    torch.testing.assert_close(head(x, torch.zeros(1, 4)), learned)  # centred concepts cancel
    certain = head(x, torch.tensor([[100.0, 0, 0, 0]]))
    assert F.cosine_similarity(certain, head.concepts[:1]) > F.cosine_similarity(learned, head.concepts[:1])


def test_residual_head_begins_as_the_identity_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    head = ResidualHeadConfig(input_dim=5, hidden_dim=7).build().eval()
    x = torch.randn(3, 5)
    torch.testing.assert_close(head(x), F.normalize(x, dim=-1))
    head.fc2.weight.data.normal_()
    head(x).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
