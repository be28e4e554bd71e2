"""The bundled nano: it loads from wheels and this package alone, and sees."""

import chiasm
from chiasm.data.worlds.pictures import Shelf
from chiasm.data.worlds.questions import sample_question
from chiasm.data.worlds.scenes import draw


def test_bundled_nano_answers_about_held_out_scenes():
    model, shelf = chiasm.load("nano"), Shelf()
    conversations, answers = [], []
    for kind in ("yes_no", "naming"):
        for index in range(8):
            scene, question = sample_question(5, "test", index, kind)
            parts = [{"type": "image", "image": draw(scene, shelf)}, {"type": "text", "text": question.text}]
            conversations.append([{"role": "user", "content": parts}])
            answers.append(question.answer)
    replies = model.generate(conversations, max_new_tokens=8, batch_size=16)
    assert all(reply.usage.image_tokens == 40 for reply in replies)
    # a guesser is right four times and never: benchmarks/nano.py measures, this only proves that it sees
    right = [reply.text == answer for reply, answer in zip(replies, answers, strict=True)]
    assert sum(right[:8]) >= 6 and sum(right[8:]) >= 3
