"""Tokenizer: control tokens out of reach of text, decoding in pieces, files there and back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.errors import CheckpointError
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.sentencepiece_model import SentencePieceModel, read_sentencepiece, write_sentencepiece
from chiasm.processing.tokenizer import Tokenizer, canonical_text

KINDS = ("chatml", "llama", "clip", "siglip", "bert")
TOKENIZERS = {kind: tiny_tokenizer(kind) for kind in KINDS}
SPELLINGS = ("<image>", "<|im_end|>", "<|im_start|>", "</s>", "<s>", "<unk>", "[CLS]", "[SEP]", "<|endoftext|>")
FRAGMENTS = (
    *SPELLINGS,
    "<",
    ">",
    "|",
    "<|",
    "|>",
    "im_end",
    "</",
    "s>",
    "[",
    "CLS]",
    " ",
    "\n",
    "a",
    "cat",
    "é😀",
    "<0x41>",
)
adversarial = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(text=adversarial | st.text(max_size=30))
def test_text_never_becomes_a_control_id(kind, text):
    tokenizer = TOKENIZERS[kind]
    for first in (True, False):
        ids = tokenizer.encode(text, first=first)
        assert not (set(ids) & tokenizer.control_ids) - {tokenizer.unk_id}


@pytest.mark.parametrize("kind", ["chatml", "llama"])
@settings(max_examples=80, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_survives_the_round_trip(kind, text):
    tokenizer = TOKENIZERS[kind]
    decoded = tokenizer.decode(tokenizer.encode(text))
    # LLaMA's pieces spell a space ▁, and a leading space stands for the prefix
    expected = text.replace("\u2581", " ") if kind == "llama" else text
    assert decoded == expected or (kind == "llama" and " " + decoded == expected)


@pytest.mark.parametrize("kind", ["chatml", "llama", "clip", "siglip"])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_streamed_pieces_join_to_the_whole(kind, data):
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=30))
    for skip in (True, False):
        decoder = tokenizer.stream(skip_special=skip)
        pieces = [decoder.push(index) for index in ids] + [decoder.finish()]
        assert "".join(pieces) == tokenizer.decode(ids, skip_special=skip)


@pytest.mark.parametrize("kind", ["chatml", "llama"])
def test_streaming_tells_words_early_and_characters_whole(kind):
    tokenizer = TOKENIZERS[kind]
    decoder = tokenizer.stream()
    pieces = [decoder.push(index) for index in tokenizer.encode("a red cat 😀 sat")] + [decoder.finish()]
    assert sum(bool(piece) for piece in pieces) >= 5
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_spans_cover_the_characters_in_order(kind):
    tokenizer = TOKENIZERS[kind]
    text = "What is the color of the car?"
    spans = [(start, stop) for _, start, stop in tokenizer.encode_spans(text)]
    assert spans == sorted(spans)
    assert [index for index, _, _ in tokenizer.encode_spans(text)] == tokenizer.encode(text)
    if kind == "chatml":
        pieces = "".join(text[start:stop] for start, stop in spans)
        assert pieces == text


def test_only_the_first_stretch_gets_llamas_prefix():
    tokenizer = TOKENIZERS["llama"]
    first, later = tokenizer.encode("cat"), tokenizer.encode("cat", first=False)
    assert tokenizer.id_to_token(first[0]).startswith("\u2581")
    assert not tokenizer.id_to_token(later[0]).startswith("\u2581")


def test_a_piece_spelled_like_a_control_token_is_cut():
    """A BPE model whose own merges spell `</s>`: text must still not reach it."""
    from tokenizers import AddedToken

    from chiasm.processing.tokenizer_pipelines import metaspace_bpe

    pieces = ["<unk>", "</s>", "<", "/", "s", ">", "</", "</s", "\u2581"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    backend = metaspace_bpe(vocab, [("<", "/"), ("</", "s"), ("</s", ">")], unk="<unk>")
    backend.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    tokenizer = Tokenizer(backend, named={"eos_token": "</s>", "unk_token": "<unk>"})
    ids = tokenizer.encode("</s></s>")
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == "</s></s>"


def test_ordinary_added_tokens_keep_their_ids_when_control_tokens_are_hidden():
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.backend.add_tokens(["<think>", "catdog"])
    tokenizer = Tokenizer(tokenizer.backend, named=tokenizer.named)
    wanted = tokenizer.token_to_id("catdog")
    assert "<think>" in tokenizer.control_tokens and "catdog" not in tokenizer.control_tokens
    ids = tokenizer.encode("a catdog <think>")
    assert wanted in ids and tokenizer.token_to_id("<think>") not in ids
    assert tokenizer.decode(ids) == "a catdog <think>"


def test_special_ids():
    tokenizer = TOKENIZERS["chatml"]
    assert tokenizer.eos_ids == (tokenizer.token_to_id("<|im_end|>"),)
    assert tokenizer.pad_id == tokenizer.eos_id and tokenizer.bos_id == tokenizer.token_to_id("<|im_start|>")
    assert TOKENIZERS["clip"].wrapping == ((TOKENIZERS["clip"].bos_id,), (TOKENIZERS["clip"].eos_id,))
    assert max(TOKENIZERS["clip"].backend.get_vocab().values()) == TOKENIZERS["clip"].eos_id


def test_eos_ids_follow_the_generation_settings(tmp_path):
    TOKENIZERS["llama"].save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert Tokenizer.from_folder(tmp_path).eos_ids == (2, 7)


def test_chat_template_from_each_place(tmp_path):
    TOKENIZERS["bert"].save(tmp_path)
    settings_file = tmp_path / "tokenizer_config.json"
    config = json.loads(settings_file.read_text())
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    settings_file.write_text(json.dumps(config | {"chat_template": named}))
    assert Tokenizer.from_folder(tmp_path).chat_template == "D"
    (tmp_path / "processor_config.json").write_text(json.dumps({"chat_template": "P"}))
    assert Tokenizer.from_folder(tmp_path).chat_template == "P"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "J"}))
    assert Tokenizer.from_folder(tmp_path).chat_template == "J"
    (tmp_path / "chat_template.jinja").write_text("N")
    assert Tokenizer.from_folder(tmp_path).chat_template == "N"


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="tokenizer_missing"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer_malformed"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"not a model at all")
    with pytest.raises(CheckpointError, match="tokenizer_malformed"):
        Tokenizer.from_folder(tmp_path)


def test_unknown_gguf_tokenizer_is_refused():
    fields = {"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.tokens": ["a"]}
    with pytest.raises(CheckpointError, match="rwkv"):
        Tokenizer.from_gguf(fields)
    with pytest.raises(CheckpointError, match="tokenizer_missing"):
        Tokenizer.from_gguf({})


def test_gguf_of_sentencepiece_kind():
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{value:02X}>" for value in range(256)),
        "\u2581",
        "a",
        "b",
        "ab",
        "\u2581ab",
    ]
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, 1, 1, 1, 1, 1],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    tokenizer = Tokenizer.from_gguf(fields)
    assert [tokenizer.id_to_token(index) for index in tokenizer.encode("ab b")] == ["\u2581ab", "\u2581", "b"]
    assert tokenizer.wrapping == ((1,), ())


@settings(max_examples=50, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(st.text(min_size=1, max_size=6), st.floats(-9, 0, width=32), st.integers(1, 6)), min_size=1
    ),
    byte_fallback=st.booleans(),
    charsmap=st.binary(max_size=20),
)
def test_sentencepiece_models_are_written_and_read(pieces, byte_fallback, charsmap):
    model = SentencePieceModel(
        pieces=tuple(pieces), model_type=2, bos_id=-1, byte_fallback=byte_fallback, charsmap=charsmap
    )
    assert read_sentencepiece(write_sentencepiece(model)) == model


def test_canonical_text():
    assert canonical_text("  A photo, of THE\tcat!  ") == "\u2581 a photo of the cat"
