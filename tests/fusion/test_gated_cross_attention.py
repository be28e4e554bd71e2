"""Who sees which picture, against a rule written token by token; what gates, caches and frozen parts promise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.invariants.decoding import decoded_beside_whole

import chiasm
from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.errors import PromptError
from chiasm.fusion.gated_cross_attention import NONE, Gallery, picture_slots, visible_pictures, within_texts
from chiasm.models import flamingo
from chiasm.models.assembly import Parts
from chiasm.models.model import Model
from chiasm.weights.load import initialise

END = 9  # the id that ends a document in these layouts


@st.composite
def layouts(draw):
    """Rows of words, pictures, videos and document ends; with the spans in reading order."""
    rows = draw(st.lists(st.lists(st.sampled_from("wwwpve"), min_size=1, max_size=14), min_size=1, max_size=4))
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    spans = []
    for row, items in enumerate(rows):
        start = length - len(items)
        for at, item in enumerate(items, start):
            if item in "pv":  # a video is one medium, however many frames it has
                spans.append(ImageSpan(row, at, at + 1))
            ids[row, at] = {"w": 1, "p": 2, "v": 2, "e": END}[item]
    return ids, spans


def brute(ids, spans, reset) -> list[list[int]]:
    """Walk every row from the left and remember the picture in sight."""
    starts = {(span.row, span.start): number for number, span in enumerate(spans)}
    seen = []
    for row, line in enumerate(ids.tolist()):
        now, out = NONE, []
        ended = False
        for column, token in enumerate(line):
            if (row, column) in starts:
                now, ended = starts[row, column], False
            out.append(NONE if ended else now)
            ended = ended or (reset is not None and token == reset)
        seen.append(out)
    return seen


@settings(max_examples=1000, deadline=None)
@given(layouts(), st.sampled_from([None, END]))
def test_visible_pictures_equal_the_rule(layout, reset) -> None:
    ids, spans = layout
    seen = visible_pictures(spans, ids, reset)
    assert seen.tolist() == brute(ids, spans, reset)
    slots = picture_slots(spans, len(ids))
    tokens = 3
    projected = {0: (torch.zeros(max(1, len(spans)), 1, tokens, 2),) * 2}
    mask, sees = Gallery(projected, seen, slots).mask(0)
    for row in range(len(ids)):
        for column in range(ids.shape[1]):
            shown = mask.allowed[row, 0, column].view(-1, tokens)
            assert bool((shown.all(1) == shown.any(1)).all()), "a picture is seen whole or not at all"
            if seen[row, column] == NONE:
                assert not sees[row, column]
            else:
                assert sees[row, column] and slots[row][shown[:, 0]].tolist() == [int(seen[row, column])]


@settings(max_examples=200, deadline=None)
@given(layouts(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_packed_texts_see_their_own_pictures_and_the_beginnings(layout, texts, random) -> None:
    ids, spans = layout
    segments = torch.stack(
        [torch.tensor(sorted(random.randint(0, texts) for _ in range(ids.shape[1]))) for _ in range(len(ids))]
    )
    seen = within_texts(visible_pictures(spans, ids), spans, segments, None)
    for row in range(len(ids)):
        for column in range(ids.shape[1]):
            mine = [
                number
                for number, span in enumerate(spans)
                if span.row == row and span.start <= column and segments[row, span.start] in (0, segments[row, column])
            ]
            assert seen[row, column] == (mine[-1] if mine else NONE)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def talk(*parts) -> list[dict]:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": picture(part)}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


@pytest.fixture(params=["flamingo", "idefics"])
def model(request):
    return chiasm.new(request.param)


def opened(model) -> None:
    """Gates away from 0, as training leaves them."""
    for name, parameter in model.module.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(0.7)


def test_at_the_start_the_model_is_its_language_model_exactly(model) -> None:
    batch = model.processor([talk("a", 1, "red cat", 2, "and more"), talk("b", 3)])
    with torch.no_grad():
        whole = model.module(batch)
        text = Batch(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        language = model.module.language
        positions = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
        embeds = language.embed_tokens(text.input_ids)
        alone = language.logits(language(embeds, attend=text.attention_mask, positions=positions))
    assert torch.equal(whole, alone)
    opened(model)
    with torch.no_grad():
        assert (model.module(batch) - whole).abs().max() > 1e-4


def test_a_token_depends_on_its_own_picture_alone(model) -> None:
    opened(model)
    first, second, changed = (talk("so", a, "red", b, "blue") for a, b in ((1, 2), (7, 2), (1, 7)))
    batch = model.processor([first])
    spans = batch.spans
    with torch.no_grad():
        outs = [model.module.hidden(model.processor([each]))[0] for each in (first, second, changed)]
        # below the first self-attention nothing is passed on: so a model of one gated layer is looked at, too
    assert torch.equal(outs[0][: spans[0].start], outs[1][: spans[0].start])
    assert torch.equal(outs[0][: spans[1].start], outs[2][: spans[1].start])
    assert not torch.equal(outs[0][spans[1].start :], outs[2][spans[1].start :])
    seen = visible_pictures(spans, batch.input_ids)
    assert (seen[0, : spans[0].start] == NONE).all() and (seen[0, spans[1].start :] == 1).all()


def test_a_pictures_keys_and_values_are_computed_once(model) -> None:
    opened(model)
    counted: dict[str, int] = {}

    def count(name):
        def hook(module, inputs, output):
            counted[name] = counted.get(name, 0) + inputs[0].shape[0] * inputs[0].shape[1]

        return hook

    for name, part in model.module.named_modules():
        if name.startswith("gates.") and name.endswith(("k_proj", "v_proj")):
            part.register_forward_hook(count(name))
    resampled = []
    model.module.connector.register_forward_hook(lambda m, i, o: resampled.append(o.shape[0]))
    latents = model.config.connector.num_latents
    model.generate([talk("a", 1, "b", 2, "c", 3, "d", 4, "e")], max_new_tokens=12)
    assert set(counted.values()) == {4 * latents} and sum(resampled) == 4
    counted.clear()
    model.generate([talk("a", 1, "b", 2, "c")], max_new_tokens=12, num_beams=3)
    assert set(counted.values()) == {2 * latents}


def test_decoding_goes_on_with_the_last_picture_and_without_any(model) -> None:
    opened(model)
    talks = [talk("no picture here"), talk("a", 1, "b", 2, "what"), talk(3, "x")]
    assert decoded_beside_whole(model.module, model.processor(talks), 4) <= 1e-5
    alone = model.generate([talk("no picture here")], max_new_tokens=6)[0]
    assert alone.token_ids == model.generate(talks, max_new_tokens=6)[0].token_ids


def test_frozen_parts_do_not_move_and_text_alone_stays_as_it_was(model) -> None:
    module = model.module
    text = model.processor([talk("only words here")])
    module.requires_grad_(False)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith(("connector.", "gates.")))
    frozen = {name: p.clone() for name, p in module.named_parameters() if not p.requires_grad}
    with torch.no_grad():
        language = module.language
        before = language.logits(language(language.embed_tokens(text.input_ids)))
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.05)
    reply = [{"role": "assistant", "content": "a red cat"}]
    batch = model.processor([talk("a", 1) + reply], add_generation_prompt=False, supervise=True)
    losses = []
    for _ in range(6):
        logits = module(batch)
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in module.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
    with torch.no_grad():
        assert torch.equal(language.logits(language(language.embed_tokens(text.input_ids))), before)


def test_a_picture_beyond_the_last_slot_is_named(model) -> None:
    batch = model.processor([talk(1, "a", 2)])
    with pytest.raises(PromptError, match="2 pictures encoded, 1 picture slots"):
        model.module(dataclasses.replace(batch, spans=batch.spans[:1], plans=batch.plans))


def film(*seeds: int) -> dict:
    return {"type": "video", "video": [picture(seed) for seed in seeds], "fps": 1.0}


def test_videos_are_refused_where_the_family_takes_none() -> None:
    for model in (chiasm.new("idefics"), without_times()):
        with pytest.raises(PromptError, match="this model takes 0 videos"):
            model.processor([[{"role": "user", "content": [film(1, 2), {"type": "text", "text": "what?"}]}]])


def without_times() -> Model:
    """OpenFlamingo as it is published: its resampler has learned no times."""
    config, _ = flamingo.tiny()
    config = dataclasses.replace(config, connector=dataclasses.replace(config.connector, max_frames=0))
    processor = flamingo.processor(config, Parts(flamingo.tiny_tokenizer("opt", controls=(flamingo.END,))))
    return Model(initialise(config), processor, flamingo.FAMILY, config)


def test_pictures_videos_and_text_in_any_order_are_one_medium_each() -> None:
    model = chiasm.new("flamingo")
    opened(model)
    content = [
        {"type": "text", "text": "first"}, film(1, 2, 3), {"type": "text", "text": "then"},
        {"type": "image", "image": picture(4)}, {"type": "text", "text": "and"}, film(5), {"type": "text", "text": "?"},
    ]  # fmt: skip
    batch = model.processor([[{"role": "user", "content": content}], talk(6, "so")])
    assert [len(plan.crops) for plan in batch.plans] == [3, 1, 1, 1]
    assert [plan.seconds for plan in batch.plans] == [(0.0, 1.0, 2.0), (), (0.0,), ()]
    assert [span.stop - span.start for span in batch.spans] == [1, 1, 1, 1]
    seen = visible_pictures(batch.spans, batch.input_ids)
    assert seen.tolist() == brute(batch.input_ids, batch.spans, None)
    with torch.no_grad():
        media = model.module.encode_images(batch.pixel_values, list(batch.plans))
        resampler, features = model.module.connector, model.module.visual_features(batch.pixel_values[:3])
        times = resampler.frame_embed[:3, None]
        joined = (features + times).flatten(0, 1)  # A.1.1: all frames' features in one sequence, each with its time
        plain = dataclasses.replace(model.config.connector, max_frames=0).build()
        plain.load_state_dict(resampler.state_dict(), strict=False)
        assert (media[0] - plain(joined[None])[0]).abs().max() <= 1e-5
        assert (media[2] - model.module.encode_images(batch.pixel_values[4:5], [batch.plans[1]])[0]).abs().max() <= 1e-5
        order = batch.pixel_values.clone()
        order[[0, 1]] = order[[1, 0]]
        assert (model.module.encode_images(order, list(batch.plans))[0] - media[0]).abs().max() > 1e-4
    replies = model.generate([[{"role": "user", "content": content}], talk(6, "so")], max_new_tokens=4)
    alone = model.generate([[{"role": "user", "content": content}]], max_new_tokens=4)[0]
    assert replies[0].token_ids == alone.token_ids and len(model.inspect(content_of(content)).crops[0]) == 3


def content_of(content: list[dict]) -> list[dict]:
    return [{"role": "user", "content": content}]


def test_more_frames_than_were_learned_lie_between_the_learned_times() -> None:
    resampler = flamingo.tiny()[0].connector.build()
    resampler.init_weights()
    learned, many = resampler.frame_embed, resampler.moments(7)
    assert torch.equal(resampler.moments(3), learned[:3])
    for at in range(7):  # 4 learned moments stretched over 7
        place = at * 3 / 6
        low = min(int(place), 2)
        between = learned[low] + (place - low) * (learned[low + 1] - learned[low])
        assert (many[at] - between).abs().max() <= 1e-6


def test_a_file_is_sampled_once_a_second_and_never_beyond_what_was_learned() -> None:
    sampling = chiasm.new("flamingo").processor.video.sampling
    times = [at / 25 for at in range(25 * 60)]
    assert len(sampling.choose(times, [])) == 4 and len(sampling.choose(times[:50], [])) == 2
