"""BLIP-2's first stage: contrast and matching against transformers, its three masks and losses against the paper."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from tests.parity.agreement import ATOL, gradients_agree, loaded
from tests.parity.bridging import goes_both_ways, randomised, same_shapes_as_reference
from tests.parity.test_blip2 import QFORMER, VISION, picture

import chiasm
from chiasm.models import blip2_retrieval
from chiasm.nn.masks import query_text_mask
from chiasm.objectives.querying import QueryingLosses, contrast_loss, hard_negatives

TEXTS = ["a red cat", "two dogs on the grass", "sea", "is there a tree near the blue boat"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Reference, our model, its folder."""
    _, processor = blip2_retrieval.tiny()
    qformer = {
        **QFORMER,
        "vocab_size": len(processor.tokenizer) + 1,
        "max_position_embeddings": 64,
        "use_qformer_text_input": True,
    }
    config = transformers.Blip2Config(
        vision_config=VISION, qformer_config=qformer, num_query_tokens=4, image_text_hidden_size=16
    )
    reference = randomised(transformers.Blip2ForImageTextRetrieval(config))
    folder = tmp_path_factory.mktemp("retrieval")
    return reference, loaded(reference, processor, folder), folder


def test_contrast_and_matching_agree(pair) -> None:
    reference, model, folder = pair
    pictures = [picture(seed) for seed in range(4)]
    batch = model.processor.pairs(pictures, TEXTS)
    inputs = {"pixel_values": batch.pixel_values, "input_ids": batch.input_ids}
    inputs["attention_mask"] = batch.attention_mask.long()
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    reference.zero_grad(), model.module.zero_grad()
    similar = reference(**inputs)
    matched = reference(**inputs, use_image_text_matching_head=True)
    ours = model.module.logits(
        model.module.embed_images(batch.pixel_values), model.module.embed_texts(batch.input_ids, batch.attention_mask)
    )
    assert (ours - similar.logits_per_image).abs().max() <= ATOL
    scores = model.module.match_scores(
        model.module.visual_features(batch.pixel_values), batch.input_ids, batch.attention_mask
    )
    assert (scores - matched.logits_per_image).abs().max() <= ATOL
    (similar.logits_per_image.square().sum() + matched.logits_per_image.square().sum()).backward()
    (ours.square().sum() + scores.square().sum()).backward()
    gradients_agree(reference, model, folder, atol=1e-4)  # sums of squares: gradients in the tens
    probabilities = matched.logits_per_image.softmax(-1)[:, 1]
    assert (model.match(pictures, TEXTS) - probabilities).abs().max() <= ATOL
    assert (model.similarity(pictures, TEXTS) - similar.logits_per_image).abs().max() <= ATOL


def test_layout_goes_both_ways(pair, tmp_path) -> None:
    reference, model, folder = pair
    goes_both_ways(reference, model, folder, tmp_path / "again")


@pytest.mark.parametrize("name", [name for name in blip2_retrieval.PRESETS if "itm" in name])
def test_presets_are_the_reference_class_s(name) -> None:
    def build(stored):
        stored.pop("model_type")
        return transformers.Blip2ForImageTextRetrieval(transformers.Blip2Config(**stored))

    ours, theirs = same_shapes_as_reference(blip2_retrieval.PRESETS[name], build)
    assert ours == theirs


def test_the_trained_part_is_the_papers() -> None:
    """Paper, §3.1: 188M parameters, the queries counted; the tower is frozen."""
    with torch.device("meta"):
        module = blip2_retrieval.PRESETS["blip2_stage1_vit_g"].build()
    trained = sum(p.numel() for name, p in module.named_parameters() if not name.startswith("vision."))
    assert trained == 186_702_654
    assert abs(trained / 188e6 - 1) < 0.01


@pytest.mark.parametrize("kind", ["joint", "separate", "causal"])
def test_masks_are_the_papers(kind) -> None:
    """Figure 2, right, read token by token."""
    queries, attend = 3, torch.tensor([[True] * 5, [True, True, True, False, False]])
    allowed = query_text_mask(queries, attend, kind=kind).allowed
    for row in range(2):
        for query in range(8):
            for key in range(8):
                if key >= queries and not attend[row, key - queries]:
                    wanted = query == key
                elif kind == "joint" or query == key:
                    wanted = True
                elif kind == "separate":
                    wanted = (query < queries) == (key < queries)
                else:
                    wanted = key < queries if query < queries else key <= query
                assert bool(allowed[row, 0, query, key]) == wanted, (row, query, key)


def test_one_pass_with_separate_masks_equals_two_passes() -> None:
    model = chiasm.new("blip2_retrieval")
    batch = model.processor.pairs([picture(1), picture(2)], TEXTS[:2])
    with torch.no_grad():
        features = model.module.visual_features(batch.pixel_values)
        connector = model.module.connector
        queries, text = connector.states(features, batch.input_ids, batch.attention_mask, kind="separate")
        alone, _ = connector.states(features)
        _, said = connector.states(None, batch.input_ids, batch.attention_mask)
    real = batch.attention_mask
    assert (queries - alone).abs().max() <= ATOL and (text - said)[real].abs().max() <= ATOL


def test_captions_are_causal_and_begin_alike() -> None:
    model = chiasm.new("blip2_retrieval")
    batch = model.processor.pairs([picture(1)], ["two dogs on the grass"])
    with torch.no_grad():
        features = model.module.visual_features(batch.pixel_values)
        whole = model.module.caption_logits(features, batch.input_ids, None)
        for stop in range(1, batch.input_ids.shape[1]):
            part = model.module.caption_logits(features, batch.input_ids[:, :stop], None)
            assert (part - whole[:, :stop]).abs().max() <= ATOL
        other = batch.input_ids.clone()
        other[:, 0] = 7  # whatever stands first is replaced by [DEC]
        assert torch.equal(model.module.caption_logits(features, other, None), whole)


def test_the_losses_are_the_papers() -> None:
    model = chiasm.new("blip2_retrieval")
    module = model.module.train()
    batch = model.processor.pairs([picture(seed) for seed in range(4)], TEXTS)
    torch.manual_seed(0)
    losses = QueryingLosses().build()(module, batch)
    losses["loss"].backward()
    assert losses["loss"].item() == pytest.approx(
        sum(losses[name].item() for name in ("contrast", "matching", "captioning")), abs=1e-5
    )
    assert all(p.grad is not None for p in module.parameters())
    similar = torch.randn(5, 5)
    by_hand = 0.0
    for matrix in (similar, similar.T):
        for row in range(5):
            logs = matrix[row].log_softmax(-1)
            by_hand -= (0.9 * logs[row] + 0.1 * logs.mean()).item() / 10
    assert contrast_loss(similar, 0.1).item() == pytest.approx(by_hand, abs=1e-5)


def test_hard_negatives_are_never_the_pair_and_follow_similarity() -> None:
    similar = torch.full((4, 4), -4.0)
    similar[0, 2] = similar[3, 1] = 4.0
    torch.manual_seed(0)
    drawn = [hard_negatives(similar) for _ in range(200)]
    pictures, texts = (torch.stack(side) for side in zip(*drawn, strict=True))
    rows = torch.arange(4)
    assert not (pictures == rows).any() and not (texts == rows).any()
    assert (texts[:, 0] == 2).float().mean() > 0.95 and (pictures[:, 1] == 3).float().mean() > 0.95
    assert math.isclose((texts[:, 2] == 0).float().mean().item(), 1 / 3, abs_tol=0.12)
