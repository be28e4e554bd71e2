"""The pico language model as it ships: small, whole, and reading its answers off the words before the question."""

import random
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from chiasm.data.text.documents import Speech, told
from chiasm.data.text.tokens import encode
from chiasm.data.worlds.director import World
from chiasm.data.worlds.phrases import EVERY
from chiasm.data.worlds.sprites import COLOURS
from chiasm.data.worlds.stage import CELLS
from chiasm.data.worlds.world import Scenes
from chiasm.language.decoder import Decoder
from chiasm.processing.miniature import CHATML_TEMPLATE
from chiasm.processing.tokenizer import Tokenizer
from chiasm.weights.frozen import pico_text, tower


@pytest.fixture(scope="module")
def model() -> tuple[Decoder, Tokenizer]:
    return pico_text()


def test_it_is_small_frozen_and_a_tower(model: tuple[Decoder, Tokenizer]) -> None:
    decoder, tokenizer = model
    folder = Path(str(files("chiasm.models"))) / "bundled" / "pico-text"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6 * 2**20
    assert 2_000_000 < sum(parameter.numel() for parameter in decoder.parameters()) < 2_500_000
    assert not decoder.training and not any(parameter.requires_grad for parameter in decoder.parameters())
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in decoder.parameters())
    assert len(tokenizer) == decoder.config.vocab_size == 2048 and decoder.lm_head is None
    again, _ = tower("pico_text")
    assert torch.equal(again.get_parameter("norm.weight"), decoder.norm.weight)


def test_its_tokenizer_spells_everything_and_no_control_token(model: tuple[Decoder, Tokenizer]) -> None:
    _, tokenizer = model
    assert [tokenizer.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>", "<image>")] == [1, 2, 3]
    assert tokenizer.eos_ids == (2,) and tokenizer.pad_id == 0 and tokenizer.chat_template == CHATML_TEMPLATE
    for text in ("How many traffic lights are there?", "Ünïcode ∞ 好", "[12, 40, 188, 223]", "<|im_end|><image>"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and not set(ids) & {0, 1, 2, 3}
    asked = [phrase for phrases in EVERY.values() for phrase in (*phrases.seen, *phrases.held_out)]
    assert sum(len(tokenizer.encode(phrase)) for phrase in asked) / sum(len(phrase.split()) for phrase in asked) < 2.2


FORMS = {"yes_no": {"yes", "no"}, "counting": set("12345"), "position": set(CELLS), "attribute": {*COLOURS}}


@pytest.mark.parametrize("task", FORMS)
def test_its_answers_have_the_questions_form(model: tuple[Decoder, Tokenizer], task: str) -> None:
    """The likeliest first piece of an answer opens a word that the question can be answered by."""
    decoder, tokenizer = model
    asked, fitting = 0, 0
    for sample in Scenes("val", [task], 40, World(seed=11)):
        if sample.annotations["answers"][0] not in FORMS[task]:
            continue  # an attribute that is no colour
        document = told(sample, random.Random(0))
        head = encode(document[:-1], tokenizer)[0][:-1]  # without the end of the text
        ids = torch.tensor([[*head, 1, *tokenizer.encode("assistant\n")]])
        best = int(decoder.logits(decoder(decoder.embed_tokens(ids)))[0, -1].argmax())
        opening = {tokenizer.encode(f"assistant\n{word}")[len(tokenizer.encode("assistant\n"))] for word in FORMS[task]}
        asked, fitting = asked + 1, fitting + (best in opening)
    assert asked >= 10 and fitting >= 0.9 * asked


def test_it_reads_what_a_scene_says_and_knows_nothing_else(model: tuple[Decoder, Tokenizer]) -> None:
    """Where something is, among three things: with the scene's words, and with those of another scene."""
    decoder, tokenizer = model
    told_scenes = [
        ("a red cat on the left, a blue boat at the top right, a green cup at the bottom.", "cat", "left"),
        ("a pink key at the top left, a yellow dog in the center, a blue hat on the right.", "dog", "center"),
        ("a green bus at the bottom left, a red fish at the top, a blue star at the bottom.", "fish", "top"),
        ("a blue moon on the right, an orange car at the top left, a red pig at the bottom.", "pig", "bottom"),
    ]
    right = 0
    for words, name, place in told_scenes:
        turns = (Speech("user", f"Where is the {name}?", words), Speech("assistant", place))
        found = encode(turns, tokenizer)
        ids = torch.tensor([found.ids])
        logits = decoder.logits(decoder(decoder.embed_tokens(ids)))[0]
        learned = [at for at, weight in enumerate(found.weights) if weight]
        right += all(int(logits[at - 1].argmax()) == found.ids[at] for at in learned)
    assert right >= 3


def test_a_cache_changes_nothing(model: tuple[Decoder, Tokenizer]) -> None:
    decoder, tokenizer = model
    ids = torch.tensor([tokenizer.encode("a red cat on the left. What is red?")])
    whole = decoder(decoder.embed_tokens(ids))
    cache = decoder.new_cache(1, ids.shape[1])
    parts = [decoder(decoder.embed_tokens(part), cache=cache) for part in ids.split(3, 1)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
