"""The `tokenizers` pipelines of the tokenizer families: GPT-2's and SmolLM's, CLIP's, LLaMA's, BERT's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

UNDERLINE = "\u2581"
_CLIP_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def byte_level_bpe(vocab: dict[str, int], merges: Sequence[tuple[str, str]], *, digits: bool = False) -> Tokenizer:
    """GPT-2's byte-level BPE.

    Args:
        vocab: piece → id.
        merges: (left, right) pairs, best first.
        digits: every digit is a word of its own (SmolLM).
    """
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(merges), fuse_unk=False, byte_fallback=False))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    steps = [pre_tokenizers.Digits(individual_digits=True), byte_level]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if digits else byte_level
    backend.decoder = decoders.ByteLevel()
    return backend


def clip_bpe(vocab: dict[str, int], merges: Sequence[tuple[str, str]], *, bos: str, eos: str, unk: str) -> Tokenizer:
    """CLIP's lower-cased byte-level BPE with `</w>` at the end of each word, wrapped in its two end tokens.

    Args:
        vocab: piece → id.
        merges: (left, right) pairs, best first.
        bos: start token.
        eos: end token.
        unk: unknown token.
    """
    backend = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=unk,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(
        (eos, vocab[eos]), (bos, vocab[bos]), trim_offsets=False, add_prefix_space=False
    )
    return backend


def metaspace_bpe(
    vocab: dict[str, int], merges: Sequence[tuple[str, str]], *, unk: str | None, scheme: str = "first"
) -> Tokenizer:
    """LLaMA's BPE: spaces become ▁, unknown text becomes bytes.

    Args:
        vocab: piece → id.
        merges: (left, right) pairs, best first.
        unk: the unknown piece.
        scheme: where a ▁ is put before the text: "first" stretch only, "always", or "never".
    """
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(merges), unk_token=unk, fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=UNDERLINE, prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(UNDERLINE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if scheme != "never":
        steps.append(decoders.Strip(content=" ", left=1))
    backend.decoder = decoders.Sequence(steps)
    return backend


def bert_wordpiece(vocab: dict[str, int], named: Mapping[str, str], *, lowercase: bool = True) -> Tokenizer:
    """BERT's WordPiece, wrapped in [CLS] and [SEP].

    Args:
        vocab: piece → id.
        named: spellings of `unk_token`, `cls_token`, `sep_token`.
        lowercase: fold case, and accents with it.
    """
    backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token=named["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    start, end = named["cls_token"], named["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start}:0 $A:0 {end}:0",
        pair=f"{start}:0 $A:0 {end}:0 $B:1 {end}:1",
        special_tokens=[(start, vocab[start]), (end, vocab[end])],
    )
    return backend
