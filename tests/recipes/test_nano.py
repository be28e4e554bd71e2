"""Nano's recipe on a miniature: packed questions equal single ones, token for token and loss for loss."""

import pytest
import torch
from PIL import Image

import chiasm
from chiasm.data.worlds.questions import sample_questions
from chiasm.data.worlds.scenes import sample_scene
from chiasm.objectives.alignment import NO_WORD
from chiasm.objectives.captioning import token_loss
from chiasm.recipes.trainings.nano import CELLS, COUNTS, cell_targets, cut_and_mix, pack, packed_loss

VISUAL, POSITIONS = 10, 4


@pytest.fixture(scope="module")
def nano():
    return chiasm.new("nano")


@pytest.fixture(scope="module")
def asked():
    return [sample_questions(0, "train", index, count)[1] for index, count in ((0, 5), (1, 2), (2, 4))]


def test_packed_tokens_are_those_of_the_processor(nano, asked):
    packed = pack(nano.processor, [0, 1, 2], asked, VISUAL)
    for row, questions in enumerate(asked):
        for segment, question in enumerate(questions, 1):
            mine = (packed.segments[row] == 0) | (packed.segments[row] == segment)
            picture = {"type": "image", "image": Image.new("RGB", (64, 64))}
            turns = [
                {"role": "user", "content": [picture, {"type": "text", "text": question.text}]},
                {"role": "assistant", "content": question.answer},
            ]
            batch = nano.processor([turns], add_generation_prompt=False, supervise=True)
            ids, labels = packed.ids[row][mine], packed.labels[row][mine]
            assert ids.tolist() == batch.input_ids[0][: len(ids)].tolist()
            assert labels.tolist() == batch.labels[0][: len(ids)].tolist()
            assert (batch.labels[0][len(ids) :] == -100).all()
            assert packed.positions[row][mine].tolist() == list(range(len(ids)))
            assert packed.span == (batch.spans[0].start, batch.spans[0].stop)


def test_packed_loss_equals_single_questions_with_gradients(nano, asked):
    language = nano.module.language
    tokens = torch.randn(3, VISUAL, language.config.hidden_dim, requires_grad=True)
    fast = packed_loss(language, tokens, pack(nano.processor, [0, 1, 2], asked, VISUAL))
    total, count = torch.zeros(()), 0
    for row, questions in enumerate(asked):
        for question in questions:
            one = pack(nano.processor, [row], [[question]], VISUAL)
            start, stop = one.span
            embeds = language.embed_tokens(one.ids.clamp(max=language.config.vocab_size - 1))
            embeds = torch.cat((embeds[:, :start], tokens[row : row + 1], embeds[:, stop:]), 1)
            answers = int((one.labels[:, 1:] != -100).sum())
            total = total + answers * token_loss(language.logits(language(embeds)), one.labels)
            count += answers
    torch.testing.assert_close(fast, total / count, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad(value, tokens)[0] for value in (fast, total / count))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_cell_targets_stand_where_the_things_are():
    for index in range(50):
        scene = sample_scene(0, "train", index)
        words = cell_targets(scene, 49)
        assert int((words[:, 0] != NO_WORD).sum()) == len(scene.things)
        for thing in scene.things:
            x, y = thing.center
            name, place, count = words[int(7 * y / scene.size[1]) * 7 + int(7 * x / scene.size[0])].tolist()
            assert CELLS[place] == scene.cell(thing) and count + 1 == min(scene.counts()[thing.name], len(COUNTS))


def test_cells_are_in_reading_order(nano):
    pixels = torch.zeros(1, 3, 64, 64)
    base = nano.module.vision.cells(pixels)
    fine, coarse = nano.module.vision.pyramid(pixels)
    assert base.shape == (1, POSITIONS, 4 * fine.shape[1] + coarse.shape[1])
    torch.testing.assert_close(base[0, 1, -coarse.shape[1] :], coarse[0, :, 0, 1])
    torch.testing.assert_close(base[0, 2, : fine.shape[1]], fine[0, :, 2, 0])


def test_mixing_keeps_half_and_counts_anew():
    words = torch.stack([cell_targets(sample_scene(0, "train", index), 49) for index in range(8)])
    features = words[..., :1].float()  # so that what is seen tells what was there
    torch.manual_seed(0)
    mixed, again = cut_and_mix(features, words)
    assert torch.equal(mixed[..., 0].long(), again[..., 0])
    assert torch.equal(again[:4], words[:4]) and not torch.equal(again[4:, :, 0], words[4:, :, 0])
    for row in again:
        held = row[row[:, 0] != NO_WORD]
        for name, _, count in held.tolist():
            assert count + 1 == min(int((held[:, 0] == name).sum()), len(COUNTS))
