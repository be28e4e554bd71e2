"""Processors: padded batches, spans that point at their pictures, limits, files that transformers reads."""

import json

import pytest
import torch
from PIL import Image

from chiasm.core.errors import PictureError, PromptError
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.processor import DualProcessor, Processor, listed

SETTINGS = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
}
PICTURES = [Image.new("RGB", (40 + 8 * n, 50), (40 * n, 100, 200 - 40 * n)) for n in range(4)]


def processor(kind="chatml", **options) -> Processor:
    tokenizer = tiny_tokenizer(kind)
    pictures = ImageProcessor.from_config(SETTINGS, patch=8)
    return Processor(tokenizer, pictures, template=tokenizer.chat_template, **options)


def ask(*parts):
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return [{"role": "user", "content": content}]


def test_batches_are_padded_on_the_left_and_spans_count_the_padding():
    made = processor()
    long = ask(PICTURES[0], "compare it with", PICTURES[1], "and say which is red")
    batch = made([ask("hi"), long, ask("what is it?", PICTURES[2])])
    assert batch.input_ids.shape == batch.attention_mask.shape and batch.attention_mask.dtype == torch.bool
    assert batch.pixel_values.shape == (3, 3, 32, 32) and len(batch.plans) == 3 and batch.labels is None
    assert (batch.input_ids[~batch.attention_mask] == made.tokenizer.pad_id).all()
    assert batch.attention_mask[:, -1].all() and not batch.attention_mask[0, 0]
    image_id = made.tokenizer.token_to_id("<image>")
    where = torch.zeros_like(batch.attention_mask)
    for span in batch.spans:
        assert span.stop - span.start == 16
        where[span.row, span.start : span.stop] = True
    assert torch.equal(batch.input_ids == image_id, where)
    assert [span.row for span in batch.spans] == [1, 1, 2]
    assert batch.prompts[2] == "<|im_start|>user\nwhat is it?<image ×16><|im_end|>\n<|im_start|>assistant\n"


def test_a_row_is_the_same_alone_and_in_company():
    made = processor("llama")
    rows = [ask("hi"), ask(PICTURES[0], "compare", PICTURES[1])]
    batch = made(rows)
    for index, row in enumerate(rows):
        alone = made(row)
        assert torch.equal(batch.input_ids[index][batch.attention_mask[index]], alone.input_ids[0])


def test_typed_placeholders_make_no_slot():
    batch = processor()(ask(PICTURES[0], "what does <image> mean? <|im_end|>"))
    assert len(batch.spans) == 1


def test_labels_cover_the_answer_only():
    made = processor()
    rows = [
        [*ask(PICTURES[0], "is it?"), {"role": "assistant", "content": "yes"}],
        [*ask("and a longer question here?"), {"role": "assistant", "content": "no, never"}],
    ]
    batch = made(rows, add_generation_prompt=False, supervise=True)
    learned = batch.labels != -100
    assert torch.equal(batch.labels[learned], batch.input_ids[learned]) and not learned[~batch.attention_mask].any()
    texts = [made.tokenizer.decode(batch.labels[row][learned[row]].tolist(), skip_special=False) for row in range(2)]
    assert texts == ["yes<|im_end|>", "no, never<|im_end|>"]
    with pytest.raises(PromptError, match="conversation 1 has 0 supervised tokens"):
        made([rows[0], ask("hi")], supervise=True)


def test_limits_name_both_numbers():
    with pytest.raises(PromptError, match="too_many_images.*3 images, the model takes 2.*part 2"):
        processor(max_images=2)(ask(*PICTURES[:3], "?"))
    with pytest.raises(PromptError, match=r"prompt 0 has \d+ tokens \(16 visual\), the model takes 20"):
        processor(max_length=20)(ask(PICTURES[0], "what is in the picture?"))
    text_only = Processor(tiny_tokenizer("chatml"), template=tiny_tokenizer("chatml").chat_template)
    with pytest.raises(PromptError, match="1 images, the model takes 0"):
        text_only(ask(PICTURES[0], "?"))
    with pytest.raises(PromptError, match="0 conversations"):
        processor()([])


def test_a_bad_picture_is_named_by_its_place():
    with pytest.raises(PictureError, match="conversation 0, message 0, part 1"):
        processor()(ask(PICTURES[0], b"not a picture", "?"))


def test_every_spelling_of_conversations():
    one = ask("hi")
    assert listed("hi") == ["hi"] and listed(one) == [one] and listed([one, one]) == [one, one]
    assert listed(["a", "b"]) == ["a", "b"] and listed({"messages": one}) == [{"messages": one}]
    assert listed([{"messages": one}]) == [{"messages": one}] and listed([]) == []


def test_clip_texts_are_wrapped_padded_and_masked():
    made = DualProcessor(tiny_tokenizer("clip"), None, 77)
    batch = made.texts(["a cat", "two dogs and a yellow ball"])
    tokenizer = made.tokenizer
    assert (batch.input_ids[:, 0] == tokenizer.bos_id).all() and (batch.input_ids[0, -1] == tokenizer.pad_id).all()
    assert batch.attention_mask[1].all() and not batch.attention_mask[0, -1]
    assert batch.input_ids[1, -1] == tokenizer.eos_id


def test_siglip_texts_fill_the_context_without_a_mask():
    made = DualProcessor(tiny_tokenizer("siglip"), None, 64, pad_to_context=True)
    batch = made.texts("a photo of a cat.")
    assert batch.input_ids.shape == (1, 64) and batch.attention_mask is None
    assert batch.input_ids[0, -1] == made.tokenizer.pad_id


def test_long_texts_are_refused_or_cut_on_request():
    made = DualProcessor(tiny_tokenizer("clip"), None, 16)
    with pytest.raises(PromptError, match=r"text 1 has \d+ tokens, the model takes 16"):
        made.texts(["a cat", "a cat " * 20])
    batch = made.texts(["a cat", "a cat " * 20], truncate=True)
    assert batch.input_ids.shape == (2, 16) and batch.input_ids[1, -1] == made.tokenizer.eos_id
    with pytest.raises(PromptError, match="0 texts"):
        made.texts([])


def test_llava_processor_files_load_in_transformers(tmp_path):
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    made = processor("llama")
    made.save(tmp_path, {"processor_class": "LlavaProcessor"})
    assert json.loads((tmp_path / "processor_config.json").read_text())["image_token"] == "<image>"
    saved = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    theirs = LlavaProcessor.from_pretrained(tmp_path, image_processor=CLIPImageProcessorPil(**saved))
    turns = ask(PICTURES[0], "What is in the picture?")
    expected = theirs.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    batch = made(turns)
    assert torch.equal(batch.input_ids, expected["input_ids"])
    assert (batch.pixel_values - expected["pixel_values"]).abs().max() <= 1 / 255


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_dual_processor_files_load_in_transformers(kind, tmp_path):
    from transformers import CLIPTokenizer, SiglipTokenizer

    name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    pictures = ImageProcessor.from_config(
        {"image_processor_type": f"{name}ImageProcessor", "size": SETTINGS["crop_size"]}
    )
    length = {"clip": 77, "siglip": 64}[kind]
    made = DualProcessor(tiny_tokenizer(kind), pictures, length, pad_to_context=kind == "siglip")
    made.save(tmp_path, {"processor_class": f"{name}Processor"})
    theirs = {"clip": CLIPTokenizer, "siglip": SiglipTokenizer}[kind].from_pretrained(tmp_path)
    texts = ["a photo of a cat.", "Two DOGS, and a yellow ball!"]
    padding = "max_length" if kind == "siglip" else True
    expected = theirs(texts, padding=padding, max_length=length, truncation=True, return_tensors="pt")
    assert torch.equal(made.texts(texts).input_ids, expected["input_ids"])
