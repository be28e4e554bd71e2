"""Text for the pico language model: documents, tokens as the prompt renderer gives them, nothing that is held out."""

import random
from pathlib import Path

import pytest

from chiasm.core.messages import Conversation, Message, TextPart
from chiasm.data.text import documents as writing
from chiasm.data.text.documents import TOLD, Document, Speech, in_other_words, spellings, told
from chiasm.data.text.quiz import drill, lookups, quiz
from chiasm.data.text.rows import Batches, Packed
from chiasm.data.text.tokens import ANSWER_WEIGHT, END, IMAGE, SMALL_WEIGHT, START, STOP, encode, learn_tokenizer
from chiasm.data.text.wordnet import Entry
from chiasm.data.worlds.director import Director, World, invented
from chiasm.data.worlds.phrases import EVERY
from chiasm.data.worlds.sprites import COLOURS
from chiasm.data.worlds.world import TASKS, Scenes
from chiasm.processing.miniature import CHATML_TEMPLATE
from chiasm.processing.prompt import PromptRenderer
from chiasm.processing.tokenizer import Tokenizer

UNTOLD = {
    "places",  # boxes of many phrases: a small language model learns nothing from their digits
    "binding",  # what examples call a thing is in the pictures alone
    "sounds",  # calls are heard
    "small_names",  # how many pixels a thing has is in the pictures alone
    "small_signs",
}
DRAWN = [
    task for task in TASKS if task not in ("boxes", "referring", "points", *UNTOLD)
]  # the others need a pack's shapes


def scenes_told(count: int) -> list[Document]:
    return [told(sample, random.Random(3)) for sample in Scenes("train", DRAWN, count)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_tokenizer(scenes_told(400), 900, spellings())


def test_every_task_is_told_and_no_answer_without_the_pictures_words() -> None:
    assert set(TOLD) == set(TASKS) - UNTOLD
    for document in scenes_told(3 * len(DRAWN)):
        assert document[0].role == "user" and document[0].shown and document[-1].role == "assistant"
        assert all(speech.text for speech in document if speech.role == "assistant")


def test_answers_can_be_read_off_the_words() -> None:
    for sample in Scenes("train", ["attribute", "position", "text", "charts", "dialogue"], 300):
        document = told(sample, random.Random(1))
        for asked, said in zip(document[::2], document[1::2], strict=True):
            if sample.annotations["kind"] != "size" and not said.text.isdigit() and said.text not in ("yes", "no"):
                assert said.text in document[0].shown, (document[0].shown, asked.text, said.text)
            if sample.annotations["kind"] == "size":
                assert f"{said.text} " in document[0].shown


def test_what_tests_hold_out_is_not_told() -> None:
    texts = [f"{speech.shown} {speech.text}" for document in scenes_told(1500) for speech in document]
    whole = "\n".join(texts)
    for phrases in EVERY.values():
        for phrase in phrases.held_out:
            if "{" not in phrase:
                assert phrase not in whole
    words = set(whole.replace('"', " ").replace(",", " ").replace(".", " ").replace("?", " ").split())
    assert not words & set(invented(True)) and words & set(invented(False))
    assert any(colour in words for colour in COLOURS)


def test_ids_are_the_prompt_renderers(tokenizer: Tokenizer) -> None:
    renderer = PromptRenderer(tokenizer, CHATML_TEMPLATE, IMAGE)
    turns = (
        Speech("user", "What is red?"),
        Speech("assistant", "cat"),
        Speech("user", "Where is it? 12"),
        Speech("assistant", "left"),
    )
    messages = tuple(Message(turn.role or "", (TextPart(turn.text),)) for turn in turns)
    prompt = renderer.render(Conversation(messages), [], add_generation_prompt=False, supervise=True)
    supervised = [i for i, flag in zip(prompt.ids, prompt.supervised, strict=True) if flag]
    plain = encode(turns, tokenizer)
    assert plain.ids == [*prompt.ids, tokenizer.token_to_id(END)] and not any(plain.shown)
    assert set(plain.weights) == {0, SMALL_WEIGHT}  # nothing was shown
    seen = encode((Speech("user", "What is red?", "a red cat on the left."), *turns[1:]), tokenizer)
    assert seen.ids[:3] == plain.ids[:3] and len(seen.ids) == len(seen.weights) == len(seen.shown)
    assert [i for i, weight in zip(seen.ids, seen.weights, strict=True) if weight == ANSWER_WEIGHT] == supervised
    where = [i for i, flag in zip(seen.ids, seen.shown, strict=True) if flag]
    assert where == tokenizer.encode("a red cat on the left.") and {seen.weights[i] for i in range(6)} == {0}
    unlearned = encode((Speech("user", "?", "a cat."), Speech("assistant", "cat", learned=False)), tokenizer)
    assert set(unlearned.weights) == {0}


def test_a_lookup_learns_its_values_alone(tokenizer: Tokenizer) -> None:
    document = (
        Speech(None, "Look up.", "a red cat.", learned=False),
        Speech(None, "red thing", learned=False),
        Speech(None, "cat."),
    )
    found = encode(document, tokenizer)
    learned = [i for i, weight in zip(found.ids, found.weights, strict=True) if weight]
    assert learned == tokenizer.encode("cat.") and tokenizer.decode(found.ids[:-1]) == (
        "a red cat. Look up. red thing cat."
    )


def test_a_tokenizer_is_a_function_of_the_documents(tokenizer: Tokenizer) -> None:
    again = learn_tokenizer(scenes_told(400), 900, spellings())
    assert again.backend.to_str() == tokenizer.backend.to_str() and len(tokenizer) == 900
    assert len(tokenizer.encode("user\n")) == len(tokenizer.encode("assistant\n")) == 2
    assert [tokenizer.token_to_id(token) for token in (END, START, STOP, IMAGE)] == [0, 1, 2, 3]
    assert tokenizer.eos_ids == (2,) and tokenizer.decode(tokenizer.encode("Is ∞ 42?")) == "Is ∞ 42?"
    for text in (" a  b ", "ab12cd", "x", "好 1", "a\n b\n\n c\n", "\n"):
        ids, stream = tokenizer.encode(text), tokenizer.stream()
        assert tokenizer.decode(ids) == text == "".join(stream.push(index) for index in ids) + stream.finish()
    assert tokenizer.encode("red")[-1:] == tokenizer.encode("a red")[-1:]  # one piece wherever it stands
    assert len(tokenizer.encode("1234")) == 5 and not set(tokenizer.encode(f"{STOP}{IMAGE}")) & {2, 3}


def test_batches_hold_whole_documents_each_once_an_epoch(tokenizer: Tokenizer) -> None:
    made = [encode(document, tokenizer) for document in scenes_told(90)]
    batches, again = (Batches(Packed.of(made), 400, 3) for _ in range(2))
    last, number, met = 0, 0, []
    while len(met) < len(made):
        rows = batches(number)
        for ids, weights, shown in zip(rows.ids, rows.weights, rows.shown, strict=True):
            end = int((ids == 0).nonzero()[0])  # the end of the text; padding is the same token
            met.append(tuple(ids[: end + 1].tolist()))
            where = [document.ids for document in made].index(list(met[-1]))
            assert weights[: end + 1].tolist() == made[where].weights and not weights[end + 1 :].any()
            assert shown[: end + 1].tolist() == made[where].shown and not shown[end + 1 :].any()
        assert rows.ids.numel() <= 400 or len(rows.ids) == 1
        last, number = number, number + 1
    assert sorted(met) == sorted(tuple(document.ids) for document in made)
    assert again(last).ids.equal(batches(last).ids) and not batches(0).ids.equal(batches(number).ids)


def test_other_words_tell_the_same(tokenizer: Tokenizer) -> None:
    forms, told_there = set(), set()
    for index in range(60):
        director = Director(World(seed=2), "train", index, "lookup")
        stage, pairs = lookups(director, index % 2 == 1)
        words = in_other_words(stage, director.rng)
        forms.add((words.startswith("a picture"), " on the " in words or " at the " in words, ":" in words))
        for actor in stage.actors:
            assert actor.phrase in words and stage.cell(actor).split()[-1] in words
        by_name = {actor.name: actor for actor in stage.actors}
        for key, value in pairs:
            asked, _, kind = key.rpartition(" ")
            if kind == "there":
                there = any(asked in (actor.name, actor.phrase) for actor in stage.actors)
                assert value == ("yes" if there else "no"), (key, words)
                told_there.add(value)
            elif kind == "thing":
                assert asked in (by_name[value].colour, stage.cell(by_name[value]))
            else:
                assert value == (by_name[asked].colour if kind == "colour" else stage.cell(by_name[asked]))
    assert len(forms) >= 4 and told_there == {"yes", "no"}


def test_a_quiz_asks_what_its_words_answer() -> None:
    kinds = set()
    for index in range(150):
        stage, asked = quiz(Director(World(seed=1), "train", index, "quiz"))
        words, actors = stage.words(), {actor.name: actor for actor in stage.actors}
        assert 5 <= len(asked) <= 10 and len({question for question, _ in asked}) == len(asked)
        for question, answer in asked:
            if answer.isdigit():
                assert int(answer) in stage.counts().values()
            elif answer in ("yes", "no"):
                true = answer == "yes"
                coloured = [actor.phrase for actor in stage.actors if f"{actor.phrase}" in question]
                named = [name for name in actors if f" {name}" in question]
                if " no " in question:
                    assert bool(named) != true
                elif any(colour in question for colour in COLOURS):
                    assert bool(coloured) == true, (question, words)
                    kinds.add("coloured")
                elif len(named) < 2 and "the" not in question.split():
                    assert bool(named) == true, (question, words)
                    kinds.add("there")
                elif "left of" in question and len(named) == 2:
                    first, second = sorted(named, key=question.index)
                    assert (actors[first].center[0] < actors[second].center[0]) == true
                    kinds.add("left")
            else:
                assert answer in words
    assert kinds == {"coloured", "there", "left"}


def test_a_drill_says_every_thing_again() -> None:
    for index in range(80):
        stage, question, answer = drill(Director(World(seed=1), "train", index, "drill"))
        for actor in stage.actors:
            assert actor.name in answer and actor.colour in answer and stage.cell(actor) in answer
        if question == "Say it again.":
            assert answer == f"{stage.words()}."


def test_definitions_become_sentences_and_questions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = [
        Entry(("cat", "true cat"), "noun", "a small animal", ("the cat sat",)),
        Entry(("Felis",), "noun", "a genus", ()),
    ]
    monkeypatch.setattr(writing, "entries", lambda: found)
    monkeypatch.setattr(writing, "load_pack", lambda name: [])
    monkeypatch.setattr(writing, "TOLD", {"naming": 1, "few_shot": 1})
    counts = {"definitions": 10, "scenes": 8, "quizzes": 3, "lookups": 6, "checks": 2, "drills": 5, "bindings": 0}
    made = writing.documents(0, counts)
    assert made == writing.documents(0, counts) and len(made) == 2 + 4 + 4 + 3 + 6 + 2 + 5
    texts = [" ".join(speech.text for speech in document) for document in made]
    assert sum("small animal" in text for text in texts) == 1 and "The cat sat." in texts
    assert not any("Felis" in text for text in texts)
    assert {len(document) for document in made if document[0].shown} >= {2, 6, 10, 20}


def test_a_name_is_learned_once_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("axiom", "bellow", "cinder", "dormer", "elbow", "cat")
    plain = [Entry((word,), "noun", "something", ()) for word in words]
    for document in writing._bound(0, plain, 40):
        bound: dict[str, str] = {}
        for asked, said in zip(document[::2], document[1::2], strict=True):
            thing = next(word for word in asked.shown.rstrip(".").split() if word not in ("a", "picture", "of"))
            assert said.learned == (said.text in bound.values()) and said.text != "cat"
            assert bound.setdefault(thing, said.text) == said.text or " " in asked.shown
            assert said.text not in invented(True)
