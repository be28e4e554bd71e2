"""Prompts: user text stays text, pictures get their slots, labels follow the renderer's spans."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.errors import PromptError
from chiasm.core.messages import parse_conversation
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.prompt import PromptRenderer
from chiasm.processing.tokenizer import Tokenizer

TOKENIZERS = {kind: tiny_tokenizer(kind) for kind in ("chatml", "llama")}
RENDERERS = {kind: PromptRenderer(each, each.chat_template) for kind, each in TOKENIZERS.items()}
STRING_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BLIND_TEMPLATE = (
    "{% for m in messages %}{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %};{% endfor %}"
)
SPELLINGS = ("<image>", "<|im_end|>", "<|im_start|>", "</s>", "<s>", "<unk>")
PIECES = (*SPELLINGS, "<", "<|", "im", "_end", "|>", "image>", ">", "</", "s>", " ", "\n", "cat", "é😀")
adversarial = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join).filter(str.strip)


def user(*parts, role="user"):
    """One turn; an integer is a picture."""
    return {
        "role": role,
        "content": [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
            for part in parts
        ],
    }


def render(renderer, *messages, tokens=(), **options):
    return renderer.render(parse_conversation(list(messages)), list(tokens), **options)


def controls(renderer, prompt):
    """The control ids of a prompt, in order."""
    return [index for index in prompt.ids if index in renderer.tokenizer.control_ids]


@pytest.mark.parametrize("kind", ["chatml", "llama", "string", "blind", "plain"])
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(adversarial, min_size=1, max_size=4), answer=adversarial)
def test_typed_control_tokens_change_no_control_id(kind, texts, answer):
    templates = {"string": STRING_TEMPLATE, "blind": BLIND_TEMPLATE, "plain": None}
    chatml = TOKENIZERS["chatml"]
    renderer = RENDERERS[kind] if kind in RENDERERS else PromptRenderer(chatml, templates[kind])
    tame = [user(1, *("x" for _ in texts)), user("y", role="assistant"), user("z")]
    wild = [user(1, *texts), user(answer, role="assistant"), user(texts[0])]
    expected = controls(renderer, render(renderer, *tame, tokens=[3]))
    prompt = render(renderer, *wild, tokens=[3])
    assert controls(renderer, prompt) == expected
    (start, stop) = prompt.spans[0]
    assert prompt.ids[start:stop] == (renderer.image_id,) * 3
    shown = renderer.tokenizer.decode(prompt.ids, skip_special=False)
    assert all(text.strip() in shown for text in texts)


@settings(max_examples=60, deadline=None)
@given(text=adversarial)
def test_template_words_and_user_text_never_join_into_a_control_token(text):
    tokenizer = TOKENIZERS["chatml"]
    for opening in ("<", "<|", "<|im", "<ima"):
        renderer = PromptRenderer(tokenizer, opening + "{{ messages[0].content[0].text }}", None)
        prompt = render(renderer, user(text))
        assert controls(renderer, prompt) == []


def test_template_trims_what_users_wrapped_in_space():
    renderer = PromptRenderer(TOKENIZERS["chatml"], "[{{ messages[0].content[0].text | trim }}]", None)
    assert render(renderer, user("  <s> hi <|im_end|> \n")).text == "[<s> hi <|im_end|>]"


def test_slots_widen_to_each_pictures_tokens():
    renderer = RENDERERS["chatml"]
    prompt = render(
        renderer, user(1, "first", 2, "second"), user("ok", role="assistant"), user(3, "?"), tokens=[4, 1, 6]
    )
    assert [stop - start for start, stop in prompt.spans] == [4, 1, 6]
    assert sum(index == renderer.image_id for index in prompt.ids) == 11
    assert "<image ×4>first<image ×1>second" in prompt.text


def test_llama_prefix_is_for_the_first_stretch_only():
    tokenizer = TOKENIZERS["llama"]
    prompt = render(RENDERERS["llama"], user(1, "cat"), tokens=[2])
    assert prompt.ids[0] == tokenizer.bos_id and prompt.ids.count(tokenizer.bos_id) == 1
    after = tokenizer.id_to_token(prompt.ids[prompt.spans[0][1]])
    assert after == "<0x0A>"  # the newline itself, without ▁


def test_a_template_that_writes_bos_gets_no_second_one():
    tokenizer = TOKENIZERS["llama"]
    renderer = PromptRenderer(tokenizer, "{{ bos_token }}{{ messages[0].content[0].text }}", None)
    assert render(renderer, user("cat")).ids.count(tokenizer.bos_id) == 1
    renderer = PromptRenderer(tokenizer, "{{ messages[0].content[0].text }}", None)
    typed = render(renderer, user("<s>cat"))
    assert typed.ids[0] == tokenizer.bos_id and typed.ids.count(tokenizer.bos_id) == 1


def test_string_templates_get_the_picture_on_a_line_of_its_own():
    renderer = PromptRenderer(TOKENIZERS["chatml"], STRING_TEMPLATE)
    prompt = render(renderer, user(1, "what is it?"), tokens=[5])
    assert prompt.text == "<|im_start|>user\n<image ×5>\nwhat is it?<|im_end|>\n<|im_start|>assistant\n"


def test_without_a_template_texts_are_joined():
    renderer = PromptRenderer(TOKENIZERS["chatml"], None)
    assert render(renderer, user(1, "Question: what?", " Answer:"), tokens=[2]).text == (
        "<image ×2>Question: what? Answer:"
    )


def test_counts_that_differ_name_both_and_the_place():
    one_slot = (
        "{% for m in messages %}{{ '<image>' }}"
        "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endfor %}"
    )
    renderer = PromptRenderer(TOKENIZERS["chatml"], one_slot)
    with pytest.raises(PromptError) as caught:
        render(renderer, user(1, "a"), user(2, 3, "b"), tokens=[1, 1, 1])
    assert caught.value.code == "image_count"
    assert caught.value.what == "3 images in the messages, 2 image slots in the prompt (message 1, part 1)"
    with pytest.raises(PromptError, match="0 images in the messages, 1 image slots"):
        render(renderer, user("a"))


@pytest.mark.parametrize("content", ["", "  \n", [{"type": "image", "image": 1}, {"type": "text", "text": " "}]])
def test_an_empty_question_is_refused(content):
    with pytest.raises(PromptError) as caught:
        render(
            RENDERERS["chatml"],
            {"role": "user", "content": content},
            tokens=[1] if content and content[0] != " " else [],
        )
    assert caught.value.code == "question_empty"


def test_a_picture_alone_is_a_question():
    assert render(RENDERERS["chatml"], user(1), tokens=[2]).spans


def test_videos_and_unknown_image_tokens_are_refused():
    video = {"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "?"}]}
    with pytest.raises(PromptError, match="message 0, part 0 is a video"):
        render(RENDERERS["chatml"], video)
    with pytest.raises(PromptError, match="image_token_unknown"):
        PromptRenderer(TOKENIZERS["chatml"], None, "<picture>")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("chatml", ["yes, a cat<|im_end|>", "no<|im_end|>"]), ("llama", ["yes, a cat</s>", "no</s>"])],
)
def test_supervised_tokens_are_the_assistants_words_and_its_end(kind, expected):
    renderer = RENDERERS[kind]
    turns = [user(1, "is it?"), user("yes, a cat", role="assistant"), user("yes, a cat"), user("no", role="assistant")]
    prompt = render(renderer, *turns, tokens=[3], supervise=True, add_generation_prompt=False)
    assert runs(renderer.tokenizer, prompt) == expected
    assert prompt.ids == render(renderer, *turns, tokens=[3], add_generation_prompt=False).ids


def test_supervision_without_generation_blocks_and_with_space_before_the_end():
    source = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + (' </s>' if m.role == 'assistant' else '\n') }}"
        "{% endfor %}"
    )
    renderer = PromptRenderer(TOKENIZERS["llama"], source)
    turns = [user("is it?"), user("yes", role="assistant"), user("why <s>"), user("a <s> </s> b", role="assistant")]
    prompt = render(renderer, *turns, supervise=True, add_generation_prompt=False)
    assert runs(renderer.tokenizer, prompt) == ["yes </s>", "a <s> </s> b </s>"]
    assert controls(renderer, prompt) == [
        renderer.tokenizer.bos_id,
        renderer.tokenizer.eos_id,
        renderer.tokenizer.eos_id,
    ]


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.content }}\n{% endfor %}"])
def test_an_open_last_turn_gets_its_end_token(template):
    renderer = PromptRenderer(TOKENIZERS["llama"], template)
    prompt = render(
        renderer, user("is it?"), user(" yes", role="assistant"), supervise=True, add_generation_prompt=False
    )
    assert prompt.ids[-1] == renderer.tokenizer.eos_id and prompt.supervised[-1]
    assert [text.strip() for text in runs(renderer.tokenizer, prompt)][0].startswith("yes")


def test_added_tokens_swallow_the_space_they_are_told_to():
    from tokenizers import AddedToken

    backend = tiny_tokenizer("chatml").backend
    backend.add_special_tokens([AddedToken("<sep>", special=True, lstrip=True, rstrip=True, normalized=False)])
    tokenizer = Tokenizer(backend, named={"eos_token": "<|im_end|>"})
    renderer = PromptRenderer(tokenizer, "{% for m in messages %} {{ m.content[0].text }}  <sep>\n{% endfor %}", None)
    prompt = render(renderer, user("a"), user("b"))
    middle = tokenizer.token_to_id("<sep>")
    assert list(prompt.ids) == [*tokenizer.encode(" a"), middle, *tokenizer.encode("b"), middle]


def runs(tokenizer, prompt):
    """The supervised tokens, as the texts of their runs."""
    found, current = [], []
    for index, learned in zip((*prompt.ids, 0), (*prompt.supervised, False), strict=True):
        if learned:
            current.append(index)
        elif current:
            found.append(tokenizer.decode(current, skip_special=False).strip())
            current = []
    return found
