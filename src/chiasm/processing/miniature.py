"""Small working tokenizers, built in memory from a few sentences: what `tiny()` models and tests use.

Nothing is trained by chance: the merges come from counting pairs, ties going to the alphabetically first, so the
same tokenizer comes out on every machine. Bytes (or byte pieces) are in every vocabulary but BERT's, so any text
can be encoded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from tokenizers import AddedToken, pre_tokenizers, processors

from chiasm.processing.sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNDERLINE,
    UNKNOWN,
    SentencePieceModel,
    write_sentencepiece,
)
from chiasm.processing.tokenizer import Tokenizer
from chiasm.processing.tokenizer_files import siglip_backend
from chiasm.processing.tokenizer_pipelines import bert_wordpiece, byte_level_bpe, clip_bpe, metaspace_bpe

Kind = Literal["chatml", "clip", "llama", "siglip", "bert", "opt"]

CORPUS = (
    "a photo of a small red cat on the grass",
    "there are two dogs and a yellow ball in the picture",
    "what is the color of the car to the left of the house?",
    "how many birds are there? count them one by one.",
    "is there a tree near the blue boat? yes, there is.",
    "the green apple is above the white table, below the lamp",
    "describe this picture in one short sentence.",
    "no, the man is not wearing a black hat.",
)

CHATML_TEMPLATE = """\
{%- macro body(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' -%}{{ '<image>' }}{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>' }}
{%- endmacro -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' -%}
{% generation %}{{ body(message.content) }}{% endgeneration %}
{%- else -%}
{{ body(message.content) }}
{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

VICUNA_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role != 'system' -%}{{ message.role.upper() + ': ' }}{%- endif -%}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content if part.type == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}
{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}
{%- endif -%}
{{ eos_token if message.role == 'assistant' else ' ' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""


def tiny_tokenizer(
    kind: Kind,
    *,
    image_token: str = "<image>",
    merges: int = 64,
    controls: Sequence[str] = (),
    corpus: Sequence[str] = CORPUS,
) -> Tokenizer:
    """Build a small tokenizer of one kind.

    Args:
        kind: "chatml" (byte-level BPE, SmolLM-like), "llama" (SentencePiece-like BPE), "clip", "siglip", "bert",
            "opt" (byte-level BPE that begins every text with its end token).
        image_token: the placeholder that "chatml", "llama" and "opt" get as a control token.
        merges: how many BPE merges to learn.
        corpus: lower-case lines that "clip", "siglip" and "bert" learn their pieces from.
        controls: further control tokens of "chatml" and "opt".

    Returns:
        A tokenizer of 300 to 600 tokens that works like its big relative; chatml and llama come with a chat
        template that takes pictures.
    """
    if kind == "chatml":
        return _chatml(image_token, merges, controls)
    if kind == "llama":
        return _llama(image_token, merges)
    if kind == "opt":
        return _opt(image_token, merges, controls)
    if kind == "clip":
        return _clip(merges, corpus)
    if kind == "siglip":
        return _siglip(corpus)
    assert kind == "bert", kind
    return _bert(corpus)


def _chatml(image_token: str, count: int, controls: Sequence[str]) -> Tokenizer:
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    named["pad_token"] = "<|im_end|>"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = _words(pre_tokenizers.ByteLevel(add_prefix_space=False))
    pairs = learn_merges([list(word) for word in words], count)
    vocab = _number([*special, *_byte_alphabet(), *("".join(pair) for pair in pairs)])
    backend = byte_level_bpe(vocab, pairs, digits=True)
    added = (*special, image_token, *controls)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    template = CHATML_TEMPLATE.replace("<image>", image_token)
    return Tokenizer(backend, named=named, chat_template=template, model_max_length=2048)


def _opt(image_token: str, count: int, controls: Sequence[str]) -> Tokenizer:
    named = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = _words(pre_tokenizers.ByteLevel(add_prefix_space=False))
    pairs = learn_merges([list(word) for word in words], count)
    vocab = _number([*special, *_byte_alphabet(), *("".join(pair) for pair in pairs)])
    backend = byte_level_bpe(vocab, pairs, digits=False)
    every = (*special, image_token, *controls)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in every])
    start = [("</s>", vocab["</s>"])]
    backend.post_processor = processors.TemplateProcessing(single="</s>:0 $A:0", special_tokens=start)
    return Tokenizer(backend, named=named, model_max_length=2048)


def _llama(image_token: str, count: int) -> Tokenizer:
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    special = ["<unk>", "<s>", "</s>"]
    words = [UNDERLINE + word for line in CORPUS for word in line.split()]
    pairs = learn_merges([list(word) for word in words], count)
    characters = sorted({character for word in words for character in word} | set("ABCDEFGHIJKLMNOPQRSTUVWXYZ:'-0123"))
    vocab = _number([*special, *_byte_pieces(), *characters, *("".join(pair) for pair in pairs)])
    backend = metaspace_bpe(vocab, pairs, unk="<unk>", scheme="first")
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*special, image_token)])
    backend.post_processor = processors.TemplateProcessing(single="<s>:0 $A:0", special_tokens=[("<s>", vocab["<s>"])])
    template = VICUNA_TEMPLATE.replace("<image>", image_token)
    return Tokenizer(backend, named=named, chat_template=template, model_max_length=2048)


def _clip(count: int, corpus: Sequence[str]) -> Tokenizer:
    start, end = "<|startoftext|>", "<|endoftext|>"
    words = _words(pre_tokenizers.ByteLevel(add_prefix_space=False), corpus, split=True)
    pairs = learn_merges([[*word[:-1], word[-1] + "</w>"] for word in words], count)
    alphabet = _byte_alphabet()
    pieces = [*alphabet, *(character + "</w>" for character in alphabet), *("".join(pair) for pair in pairs)]
    vocab = _number([*pieces, start, end])  # the end token has the highest id, as in the published one
    backend = clip_bpe(vocab, pairs, bos=start, eos=end, unk=end)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (start, end)])
    named = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    return Tokenizer(backend, named=named, model_max_length=77)


def _siglip(corpus: Sequence[str]) -> Tokenizer:
    lines = [line.translate(str.maketrans("", "", "?.,")) for line in corpus]
    words = Counter(UNDERLINE + word for line in lines for word in line.split())
    characters = Counter(character for word, number in words.items() for character in word * number)
    total = sum(words.values()) + sum(characters.values())
    scored = {text: math.log(number / total) for text, number in (words | characters).items()}
    for character in "abcdefghijklmnopqrstuvwxyz0123456789":
        scored.setdefault(character, math.log(0.5 / total))
    pieces = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
    pieces += [(piece, -20.0, BYTE) for piece in _byte_pieces()]
    pieces += [(text, score, NORMAL) for text, score in sorted(scored.items(), key=lambda item: (-item[1], item[0]))]
    model = SentencePieceModel(
        pieces=tuple(pieces), model_type=1, unk_id=2, bos_id=-1, eos_id=1, pad_id=0, byte_fallback=True
    )
    data = write_sentencepiece(model)
    named = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    backend = siglip_backend(data, named)
    return Tokenizer(backend, named=named, model_max_length=64, canonical=True, sentencepiece=data)


def _bert(corpus: Sequence[str]) -> Tokenizer:
    named = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    named["mask_token"] = "[MASK]"
    words = [word for line in corpus for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(line)]
    printable = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *printable, *("##" + character for character in printable)]
    pieces += [word for word in sorted(set(words)) if len(word) > 1]
    vocab = _number(pieces)
    backend = bert_wordpiece(vocab, named)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in pieces[:5]])
    return Tokenizer(backend, named=named, model_max_length=256)


def learn_merges(words: Sequence[Sequence[str]], count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding's merges: join the commonest neighbours, again and again.

    Args:
        words: each word as its symbols.
        count: at most so many merges.

    Returns:
        (left, right) pairs, in the order learned.
    """
    spelled = Counter(tuple(word) for word in words)
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, number in spelled.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += number
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = Counter({_join(word, best): number for word, number in spelled.items()})
    return merges


def _join(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    position = 0
    while position < len(word):
        step = 2 if word[position : position + 2] == pair else 1
        joined.append("".join(word[position : position + step]))
        position += step
    return tuple(joined)


def _words(
    pre_tokenizer: pre_tokenizers.PreTokenizer, corpus: Sequence[str] = CORPUS, *, split: bool = False
) -> list[str]:
    texts = [word for line in corpus for word in line.split()] if split else list(corpus)
    cut: Callable[[str], list[tuple[str, tuple[int, int]]]] = pre_tokenizer.pre_tokenize_str
    return [word for text in texts for word, _ in cut(text)]


def _byte_alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _byte_pieces() -> list[str]:
    return [f"<0x{value:02X}>" for value in range(256)]


def _number(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
