"""`Tokenizer`: text → ids and back, with control tokens out of the text's reach.

One class over the `tokenizers` library serves byte-level BPE, CLIP's BPE, LLaMA's and SigLIP's SentencePiece and
BERT's WordPiece. `encode` takes text that somebody typed: however it spells a control token, no control id comes
out. Only the prompt renderer places control ids, one by one, by id.

Known departure: where a reference tokenizer would turn the text `<|im_end|>` into one control id, ours gives the
ids of its characters.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding
from tokenizers import Tokenizer as Backend

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_CONTROL_LOOK = re.compile(r"<[^<>\s][^<>\n]*>|\[[^\[\]\s][^\[\]\n]*\]")
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonical_text(text: str) -> str:
    """SigLIP's text: lower case, no ASCII punctuation, single spaces, behind the ▁ that opens every text.

    The reference puts the ▁ there first, so a space at the start of the text survives.
    """
    opened = "\u2581" + text.replace("\u2581", " ")
    return re.sub(r"\s+", " ", opened.lower().translate(_PUNCTUATION)).strip()


class Tokenizer:
    """Text → ids → text.

    Args:
        backend: the `tokenizers` pipeline; its padding and truncation are switched off.
        named: the token behind each name of `NAMED` that the tokenizer has.
        chat_template: the jinja2 template that came with it.
        model_max_length: longest input in tokens; None when unlimited.
        canonical: `encode` first brings text into SigLIP's form.
        sentencepiece: bytes of the `.model` file it was built from, which `save` writes back.
        eos_ids: further ids that end a reply, besides the end-of-sequence token.
        ranks: bytes of the `qwen.tiktoken` file it was built from, which `save` writes back beside its own.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        named: Mapping[str, str] | None = None,
        chat_template: str | None = None,
        model_max_length: int | None = None,
        canonical: bool = False,
        sentencepiece: bytes | None = None,
        eos_ids: Iterable[int] = (),
        ranks: bytes | None = None,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.named = {key: value for key, value in (named or {}).items() if value}
        self.chat_template = chat_template
        self.model_max_length = model_max_length
        self.canonical = canonical
        self.sentencepiece, self.ranks = sentencepiece, ranks
        self._extra_eos = tuple(eos_ids)
        known = {token.content for token in backend.get_added_tokens_decoder().values()}
        missing = [token for token in dict.fromkeys(self.named.values()) if token not in known]
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read the tokenizer of a published folder; see `tokenizer_files.read_folder`."""
        from chiasm.processing.tokenizer_files import read_folder

        return read_folder(folder)

    @classmethod
    def from_gguf(cls, metadata: Any) -> Tokenizer:
        """Build the tokenizer that a GGUF file describes; see `tokenizer_files.read_gguf`."""
        from chiasm.processing.tokenizer_files import read_gguf

        return read_gguf(metadata)

    # Tokens and ids

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def token_to_id(self, token: str) -> int | None:
        """The id of one token as the vocabulary spells it; None when there is none."""
        return self.backend.token_to_id(token)

    def id_to_token(self, index: int) -> str | None:
        """The vocabulary's spelling of one id; None when the id is out of range."""
        return self.backend.id_to_token(index)

    def _named_id(self, name: str) -> int | None:
        token = self.named.get(name)
        return None if token is None else self.backend.token_to_id(token)

    @property
    def bos_id(self) -> int | None:
        """Id of the beginning-of-sequence token."""
        return self._named_id("bos_token")

    @property
    def eos_id(self) -> int | None:
        """Id of the end-of-sequence token."""
        return self._named_id("eos_token")

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends a reply."""
        ids = [] if self.eos_id is None else [self.eos_id]
        return tuple(dict.fromkeys([*ids, *self._extra_eos]))

    @property
    def pad_id(self) -> int:
        """Id that fills a batch: the padding token, else the end or unknown token, else 0."""
        candidates = (self._named_id(name) for name in ("pad_token", "eos_token", "unk_token"))
        return next((index for index in candidates if index is not None), 0)

    @property
    def unk_id(self) -> int | None:
        """Id of the unknown token."""
        return self._named_id("unk_token")

    @cached_property
    def control_tokens(self) -> dict[str, AddedToken]:
        """Every added token that is special or spelled like one (`<…>`, `[…]`), by spelling."""
        added = self.backend.get_added_tokens_decoder().values()
        return {
            token.content: token
            for token in added
            if token.content.strip() and (token.special or _CONTROL_LOOK.fullmatch(token.content))
        }

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids of the control tokens."""
        ids = (self.backend.token_to_id(token) for token in self.control_tokens)
        return frozenset(index for index in ids if index is not None)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that `decode` leaves out."""
        return frozenset(index for index, token in self.backend.get_added_tokens_decoder().items() if token.special)

    def add_control(self, *tokens: str) -> None:
        """Add control tokens, such as a picture's placeholder, at the end of the vocabulary where they are new."""
        self.backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
        for name in ("control_tokens", "control_ids", "special_ids", "_inert_ids", "_text_backends", "wrapping"):
            self.__dict__.pop(name, None)

    # Encoding

    def encode(self, text: str, *, first: bool = True) -> list[int]:
        """Encode user text; no control id comes out, whatever it spells.

        Args:
            text: what somebody typed.
            first: the text opens the prompt; LLaMA-like tokenizers put a ▁ before the first stretch only.

        Returns:
            Token ids without beginning or end tokens.
        """
        return [index for index, _, _ in self.encode_spans(text, first=first)]

    def encode_spans(self, text: str, *, first: bool = True) -> list[tuple[int, int, int]]:
        """Encode user text, with the characters behind each id.

        Args:
            text: what somebody typed.
            first: the text opens the prompt.

        Returns:
            (id, start, stop) for each token; start and stop index characters of `text` (of its canonical form
            for SigLIP).
        """
        if not text:
            return []
        if self.canonical:
            text = canonical_text(text)
            if text == "\u2581":  # nothing but punctuation
                return []
        return self._spans(text, first)

    def _spans(self, text: str, first: bool) -> list[tuple[int, int, int]]:
        encoding, ids = self._encode(text, first)
        tokens = [(index, *span) for index, span in zip(ids, encoding.offsets, strict=True)]
        if self._inert_ids.isdisjoint(ids):
            return tokens
        # The model itself spelled a control token from its characters (SentencePiece vocabularies hold `</s>` as
        # an ordinary piece): cut the text inside that token and encode both sides.
        start, stop = next(span for index, span in zip(ids, encoding.offsets, strict=True) if index in self._inert_ids)
        cut = start + 1 if stop - start > 1 else None
        if cut is None or not 0 < cut < len(text):
            return tokens
        left = self._spans(text[:cut], first)
        right = self._spans(text[cut:], False)
        return left + [(index, a + cut, b + cut) for index, a, b in right]

    def _encode(self, text: str, first: bool) -> tuple[Encoding, list[int]]:
        backend, renamed = self._text_backends[0 if first else 1]
        encoding = backend.encode(text, add_special_tokens=False)
        return encoding, [renamed.get(index, index) for index in encoding.ids] if renamed else encoding.ids

    @cached_property
    def _inert_ids(self) -> frozenset[int]:
        return self.control_ids - {self.unk_id}

    @cached_property
    def _text_backends(self) -> tuple[tuple[Backend, dict[int, int]], tuple[Backend, dict[int, int]]]:
        """(pipeline, id changes) for the first stretch and for later ones, both blind to control tokens."""
        plain = all(token.special for token in self.control_tokens.values())
        scheme_first = _prepends_first(self.backend)
        if plain:
            self.backend.encode_special_tokens = True
            if not scheme_first:
                return (self.backend, {}), (self.backend, {})
        state = json.loads(self.backend.to_str())
        state["added_tokens"] = [
            token for token in state["added_tokens"] if token["content"] not in self.control_tokens
        ]
        first = (self.backend, {}) if plain else self._without_control(state)
        if not scheme_first:
            return first, first
        for step in _metaspaces(state["pre_tokenizer"]):
            step["prepend_scheme"] = "never"
        return first, self._without_control(state)

    def _without_control(self, state: dict[str, Any]) -> tuple[Backend, dict[int, int]]:
        backend = Backend.from_str(json.dumps(state))
        backend.encode_special_tokens = True
        renamed = {}
        for index, token in backend.get_added_tokens_decoder().items():
            true = self.backend.token_to_id(token.content)
            if true is not None and true != index:  # ids past the model's vocabulary close up when tokens leave
                renamed[index] = true
        return backend, renamed

    @cached_property
    def wrapping(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that the post-processor puts before and after a text, such as BOS, or [CLS] and [SEP]."""
        bare = self.backend.encode("a", add_special_tokens=False).ids
        full = self.backend.encode("a", add_special_tokens=True).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return tuple(full[:start]), tuple(full[start + len(bare) :])
        return (), ()

    # Decoding

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Turn ids into text.

        Args:
            ids: (T,) token ids; ids outside the vocabulary give nothing.
            skip_special: leave special tokens out.

        Returns:
            The text; bytes that are no UTF-8 become U+FFFD.
        """
        text = self.backend.decode([int(index) for index in ids], skip_special_tokens=skip_special)
        suffix = getattr(self.backend.model, "end_of_word_suffix", None)
        return text.replace(suffix, " ").strip() if suffix else text

    def stream(self, *, skip_special: bool = True) -> StreamDecoder:
        """A decoder that takes ids one at a time."""
        return StreamDecoder(self, skip_special=skip_special)

    @cached_property
    def _falls_back_to_bytes(self) -> bool:
        return "ByteFallback" in str(self.backend.decoder)

    def is_byte_piece(self, index: int) -> bool:
        """True for a piece that stands for one byte of a character without a piece of its own."""
        return self._falls_back_to_bytes and bool(_BYTE_PIECE.fullmatch(self.id_to_token(index) or ""))

    # Files

    def save(self, folder: str | Path, *, extra: Mapping[str, Any] | None = None) -> None:
        """Write the files that `from_folder` and transformers read back to the same ids.

        Args:
            folder: an existing folder.
            extra: further entries of tokenizer_config.json.
        """
        from chiasm.processing.tokenizer_files import write_folder

        write_folder(self, folder, extra or {})


class StreamDecoder:
    """Text of a growing list of ids, in pieces that join to the text of the whole.

    A piece is held back while it could still change: half a character, or a run of byte pieces.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._ids: list[int] = []
        self._base = 0  # ids before it are settled and left out of the window
        self._told = 0  # ids before it are told

    def push(self, index: int) -> str:
        """Take one id; return the text that is now certain, often one word, sometimes nothing."""
        self._ids.append(int(index))
        silent = self._skip and index in self._tokenizer.special_ids  # bytes on both its sides form one run
        if silent or self._tokenizer.is_byte_piece(index):
            return ""
        return self._tell(final=False)

    def finish(self) -> str:
        """Return what was held back."""
        return self._tell(final=True)

    def _tell(self, *, final: bool) -> str:
        if self._tokenizer.backend.decoder is None or _joins_words(self._tokenizer):
            return self._tell_whole(final)
        told = self._tokenizer.decode(self._ids[self._base : self._told], skip_special=self._skip)
        text = self._tokenizer.decode(self._ids[self._base :], skip_special=self._skip)
        if not final and (text.endswith("\ufffd") or len(text) <= len(told)):
            return ""
        self._base, self._told = self._told if text != told else self._base, len(self._ids)
        return text[len(told) :]

    def _tell_whole(self, final: bool) -> str:
        # Decoders that strip or tidy the whole string are not local: hold the text to the end.
        if not final:
            return ""
        return self._tokenizer.decode(self._ids, skip_special=self._skip)


def _joins_words(tokenizer: Tokenizer) -> bool:
    return bool(getattr(tokenizer.backend.model, "end_of_word_suffix", None))


def _metaspaces(pre_tokenizer: Mapping[str, Any] | None) -> list[Any]:
    if not pre_tokenizer:
        return []
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return [step for step in steps if step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first"]


def _prepends_first(backend: Backend) -> bool:
    pre_tokenizer = backend.pre_tokenizer
    if pre_tokenizer is None:
        return False
    return bool(_metaspaces(json.loads(pre_tokenizer.__getstate__())))
