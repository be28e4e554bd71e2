"""Prompt ids against transformers' processors, on ordinary text: same template, same tokenizer, same pictures."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaProcessor, TokenizersBackend
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from chiasm.core.messages import parse_conversation
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.prompt import PromptRenderer
from chiasm.processing.tokenizer import Tokenizer

CROP = {"height": 32, "width": 32}
TOKENS = 16  # 32 pixels in patches of 8
PICTURE = Image.new("RGB", (40, 30), (90, 120, 30))
INST_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' }}{% for p in m.content %}"
    "{% if p.type == 'image' %}{{ '<image>\n' }}{% else %}{{ p.text | trim }}{% endif %}{% endfor %}{{ ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content[0].text + eos_token }}{% endif %}{% endfor %}"
)
CONVERSATIONS = (
    [("user", ["?", "What is the color of the car?"])],
    [("user", ["Is there a dog here?"]), ("assistant", ["no, there is not"]), ("user", ["?", " and here ", "?", "?"])],
    [
        ("system", ["be short"]),
        ("user", ["?", "  how many\n\nbirds? 1234 "]),
        ("assistant", ["two"]),
        ("user", ["sure?"]),
    ],
    [("user", ["?"])],
)


def messages(turns):
    """("user", ["?", "text"]) → HF messages; "?" is a picture."""
    parts = {"?": {"type": "image", "image": PICTURE}}
    return [
        {"role": role, "content": [parts.get(text) or {"type": "text", "text": text} for text in texts]}
        for role, texts in turns
    ]


@pytest.fixture(scope="module", params=["chatml", "llama", "llama-inst", "llama-prefix-everywhere"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    ours = tiny_tokenizer(request.param.split("-")[0])
    if request.param == "llama-inst":
        ours.chat_template = INST_TEMPLATE
    ours.save(folder)
    if request.param == "llama-prefix-everywhere":  # published LLaVA folders prefix by normalizer, every stretch
        state = json.loads((folder / "tokenizer.json").read_text())
        prefix = {"type": "Prepend", "prepend": "▁"}
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        state |= {"normalizer": {"type": "Sequence", "normalizers": [prefix, spaces]}, "pre_tokenizer": None}
        (folder / "tokenizer.json").write_text(json.dumps(state))
    theirs = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=CROP),
        tokenizer=TokenizersBackend.from_pretrained(folder),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=ours.chat_template,
    )
    ours = Tokenizer.from_folder(folder)
    return PromptRenderer(ours, ours.chat_template), theirs


def reference_ids(theirs, turns, generate):
    out = theirs.apply_chat_template(messages(turns), tokenize=True, return_dict=True, add_generation_prompt=generate)
    return out["input_ids"][0]


def our_ids(ours, turns, generate):
    conversation = parse_conversation(messages(turns))
    count = sum(1 for _ in conversation.images())
    return list(ours.render(conversation, [TOKENS] * count, add_generation_prompt=generate).ids)


@pytest.mark.parametrize("turns", CONVERSATIONS)
@pytest.mark.parametrize("generate", [True, False])
def test_llava_processor_gives_the_same_ids(pair, turns, generate):
    ours, theirs = pair
    assert our_ids(ours, turns, generate) == reference_ids(theirs, turns, generate)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(
            st.sampled_from("abc dog cat.,:;!?'\n\té😀½—▁0123|_") | st.characters(exclude_categories=["Cs", "Co"]),
            max_size=12,
        )
        .filter(str.strip)
        .filter(lambda text: "<" not in text and "[" not in text),
        min_size=1,
        max_size=3,
    )
)
def test_any_ordinary_text_gives_the_same_ids(pair, texts):
    ours, theirs = pair
    turns = [("user", ["?", *texts]), ("assistant", [texts[0]]), ("user", [texts[-1]])]
    if any(text == "?" for text in texts):
        turns = [(role, [text if text != "?" else "!" for text in parts]) for role, parts in turns]
    assert our_ids(ours, turns, True) == reference_ids(theirs, turns, True)


def test_assistant_spans_agree_with_the_references_mask(pair):
    ours, theirs = pair
    turns = [("user", ["?", "is it?"]), ("assistant", ["yes, a cat"]), ("user", ["and now?"]), ("assistant", ["no."])]
    if not ours.template.has_generation:
        return  # the reference gives no mask then
    out = theirs.apply_chat_template(
        messages(turns), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    prompt = ours.render(parse_conversation(messages(turns)), [TOKENS], add_generation_prompt=False, supervise=True)
    assert list(prompt.ids) == out["input_ids"][0]
    assert [int(learned) for learned in prompt.supervised] == list(out["assistant_masks"][0])
