"""Tokenizers from published folders and GGUF files, and back to a folder.

Read: `tokenizer.json` beside `tokenizer_config.json` and, in older folders, `special_tokens_map.json` and
`added_tokens.json`; `vocab.json` + `merges.txt` (CLIP, byte-level BPE); `vocab.txt` (BERT); `tokenizer.model`
(LLaMA's SentencePiece BPE); `spiece.model` (SigLIP's SentencePiece Unigram); `qwen.tiktoken` (Qwen's ranks, see
`tiktoken_files`); GGUF's `tokenizer.ggml.*` fields.

As transformers does, `add_bos_token` and `add_eos_token` of the settings override the post-processor of
tokenizer.json, and a LLaMA language model's tokenizer.json gives its vocabulary only: the pipeline is LLaMA's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from chiasm.core.errors import CheckpointError
from chiasm.processing import tiktoken_files
from chiasm.processing.sentencepiece_model import BPE, CONTROL, USER_DEFINED, merges_of, read_sentencepiece, unigram
from chiasm.processing.tokenizer import NAMED, Tokenizer
from chiasm.processing.tokenizer_pipelines import bert_wordpiece, byte_level_bpe, clip_bpe, metaspace_bpe

_UNLIMITED = 10**9  # published settings write 1e30 for "no limit"
_LLAVA_TYPES = ("llava", "llava_next")  # their folders' tokenizer.json is used as it stands


def read_folder(folder: str | Path) -> Tokenizer:
    """Read the tokenizer of a published folder.

    Args:
        folder: a folder in any of the layouts of this module's header.

    Returns:
        The tokenizer.

    Raises:
        CheckpointError: no tokenizer file, or one that can't be read.
    """
    folder = Path(folder)
    config = _read_json(folder / "tokenizer_config.json")
    named = _named_tokens(config, _read_json(folder / "special_tokens_map.json"))
    family = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    sentencepiece: bytes | None = None
    try:
        if family == "SiglipTokenizer" and (folder / "spiece.model").exists():
            sentencepiece = (folder / "spiece.model").read_bytes()
            backend = siglip_backend(sentencepiece, named)
        elif (folder / "tokenizer.json").exists():
            backend = Backend.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
            if family == "LlamaTokenizer":
                backend = _llama_pipeline(backend, config, _read_json(folder / "config.json"), named)
        elif (folder / "vocab.json").exists():
            backend = _vocab_and_merges(folder, family, named)
        elif (folder / "vocab.txt").exists():
            backend = _bert_backend((folder / "vocab.txt").read_text(encoding="utf-8"), config, named)
        elif (folder / "tokenizer.model").exists():
            backend = _llama_from_sentencepiece((folder / "tokenizer.model").read_bytes(), config, named)
        elif (folder / "spiece.model").exists():
            sentencepiece = (folder / "spiece.model").read_bytes()
            backend = siglip_backend(sentencepiece, named)
        elif (folder / "qwen.tiktoken").exists():
            backend = _qwen(folder, named)
        else:
            raise CheckpointError(
                "tokenizer_missing",
                f"{folder} holds 0 of the 6 known tokenizer files (tokenizer.json, vocab.json, vocab.txt, "
                "tokenizer.model, spiece.model, qwen.tiktoken)",
                hint="copy its language model's into the folder (CogVLM's is lmsys/vicuna-7b-v1.5's)",
            )
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception
        raise CheckpointError("tokenizer_malformed", f"{folder}: {_one_line(error)}") from error
    _add_tokens(backend, config, folder)
    _apply_flags(backend, config, named)
    limit = config.get("model_max_length")
    return Tokenizer(
        backend,
        named=named,
        chat_template=read_chat_template(folder),
        model_max_length=int(limit) if isinstance(limit, (int, float)) and limit < _UNLIMITED else None,
        canonical=(sentencepiece is not None or family == "SiglipTokenizer")
        and config.get("do_lower_case", True) is not False,
        sentencepiece=sentencepiece,
        eos_ids=_generation_eos(folder),
        ranks=ranks.read_bytes() if (ranks := folder / "qwen.tiktoken").exists() else None,
    )


def read_chat_template(folder: str | Path) -> str | None:
    """The chat template of a folder, from whichever file holds it: the newest form first.

    Args:
        folder: a published folder.

    Returns:
        The jinja2 source, or None.
    """
    folder = Path(folder)
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = _read_json(folder / name).get("chat_template")
        if isinstance(template, list):  # several named templates
            template = {item["name"]: item["template"] for item in template}
        if isinstance(template, Mapping):
            template = template.get("default")
        if isinstance(template, str):
            return template
    return None


def read_gguf(metadata: Any) -> Tokenizer:
    """Build the tokenizer that a GGUF file describes.

    Args:
        metadata: a `gguf.GGUFReader`, or a mapping from field names to plain values.

    Returns:
        The tokenizer, with the file's chat template.

    Raises:
        CheckpointError: a field is missing, or the tokenizer is of a kind not known here.
    """

    def field(name: str, default: Any = None) -> Any:
        if isinstance(metadata, Mapping):
            return metadata.get(name, default)
        found = metadata.get_field(name)
        return default if found is None else found.contents()

    kind, tokens = field("tokenizer.ggml.model"), field("tokenizer.ggml.tokens")
    if not tokens:
        raise CheckpointError("tokenizer_missing", "the GGUF file has no tokenizer.ggml.tokens")
    vocab = {token: index for index, token in enumerate(tokens)}
    if kind == "gpt2":
        merges = _pairs(merge.split(" ", 1) for merge in field("tokenizer.ggml.merges", ()))
        backend = byte_level_bpe(vocab, merges, digits=field("tokenizer.ggml.pre") == "smollm")
    elif kind == "llama":
        scheme = "first" if field("tokenizer.ggml.add_space_prefix", True) else "never"
        unknown = field("tokenizer.ggml.unknown_token_id", 0)
        scores = field("tokenizer.ggml.scores") or [-float(index) for index in range(len(tokens))]
        order = {token: -scores[index] for token, index in vocab.items()}
        merges = sorted(merges_of(vocab), key=lambda pair: order[pair[0] + pair[1]])
        backend = metaspace_bpe(vocab, merges, unk=tokens[unknown], scheme=scheme)
    else:
        raise CheckpointError("tokenizer_unknown", f"GGUF tokenizer {kind!r} is none of gpt2, llama")
    types = field("tokenizer.ggml.token_type") or ()
    for token, token_type in zip(tokens, types, strict=False):
        if token_type in (CONTROL, USER_DEFINED):
            special = token_type == CONTROL
            added = [AddedToken(token, special=special, normalized=False)]
            (backend.add_special_tokens if special else backend.add_tokens)(added)
    named = {}
    spelled = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for theirs, ours in spelled.items():
        index = field(f"tokenizer.ggml.{theirs}_token_id")
        if index is not None:
            named[f"{ours}_token"] = tokens[index]
    flags = {key: field(f"tokenizer.ggml.{key}") for key in ("add_bos_token", "add_eos_token")}
    if flags["add_bos_token"] is None:
        flags["add_bos_token"] = kind == "llama"
    _apply_flags(backend, flags, named)
    return Tokenizer(backend, named=named, chat_template=field("tokenizer.chat_template"))


def write_folder(tokenizer: Tokenizer, folder: str | Path, extra: Mapping[str, Any]) -> None:
    """Write a tokenizer's files in the form transformers reads.

    Args:
        tokenizer: what to write.
        folder: an existing folder.
        extra: further entries of tokenizer_config.json.
    """
    folder = Path(folder)
    config: dict[str, Any] = {"backend": "tokenizers", "tokenizer_class": "TokenizersBackend", **tokenizer.named}
    config["model_max_length"] = tokenizer.model_max_length or 10**30
    config["clean_up_tokenization_spaces"] = False
    special = [token.content for token in tokenizer.backend.get_added_tokens_decoder().values() if token.special]
    unnamed = [token for token in special if token not in tokenizer.named.values()]
    if unnamed:
        config["extra_special_tokens"] = unnamed
    if tokenizer.sentencepiece is not None:
        (folder / "spiece.model").write_bytes(tokenizer.sentencepiece)
        config |= {"backend": "sentencepiece", "tokenizer_class": "SiglipTokenizer", "do_lower_case": True}
        config["model_input_names"] = ["input_ids"]
    else:
        (folder / "tokenizer.json").write_text(tokenizer.backend.to_str(pretty=True), encoding="utf-8")
        if tokenizer.canonical:
            config["tokenizer_class"] = "SiglipTokenizer"
    if tokenizer.ranks is not None:
        (folder / "qwen.tiktoken").write_bytes(tokenizer.ranks)
    config |= extra
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    if tokenizer.chat_template is not None:
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def _vocab_and_merges(folder: Path, family: str, named: dict[str, str]) -> Backend:
    vocab = _read_json(folder / "vocab.json")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = _pairs(line.split(" ") for line in lines if line and not line.startswith("#version"))
    if "CLIP" not in family and not any(token.endswith("</w>") for token in vocab):
        return byte_level_bpe(vocab, merges)
    end = "<|endoftext|>"
    for name, token in (("bos_token", "<|startoftext|>"), ("eos_token", end), ("unk_token", end), ("pad_token", end)):
        named.setdefault(name, token)
    return clip_bpe(vocab, merges, bos=named["bos_token"], eos=named["eos_token"], unk=named["unk_token"])


def _qwen(folder: Path, named: dict[str, str]) -> Backend:
    """Qwen's ranks; a model with pictures has nine more control tokens, and a chat model ends its turns."""
    pictures = "visual" in _read_json(folder / "config.json")
    chats = _read_json(folder / "generation_config.json").get("chat_format") == "chatml"
    named.setdefault("eos_token", "<|im_end|>" if chats else "<|endoftext|>")
    named.setdefault("pad_token", "<|endoftext|>")
    pieces = tiktoken_files.read_ranks((folder / "qwen.tiktoken").read_bytes())
    controls = (*tiktoken_files.QWEN_CONTROLS, *(tiktoken_files.QWEN_VL_CONTROLS if pictures else ()))
    return tiktoken_files.backend_of(pieces, controls)


def _bert_backend(vocab_text: str, config: Mapping[str, Any], named: dict[str, str]) -> Backend:
    for name, token in (("unk", "[UNK]"), ("sep", "[SEP]"), ("pad", "[PAD]"), ("cls", "[CLS]"), ("mask", "[MASK]")):
        named.setdefault(f"{name}_token", token)
    tokens = vocab_text.rstrip("\n").split("\n")
    return bert_wordpiece(
        {token: index for index, token in enumerate(tokens)}, named, lowercase=config.get("do_lower_case", True)
    )


def _llama_scheme(config: Mapping[str, Any]) -> str:
    if config.get("add_prefix_space") is False:
        return "never"
    return "always" if config.get("legacy") else "first"


def _llama_pipeline(
    backend: Backend, config: Mapping[str, Any], model: Mapping[str, Any], named: dict[str, str]
) -> Backend:
    state = json.loads(backend.to_str())
    if model.get("model_type", "llava") in _LLAVA_TYPES or "ByteLevel" in json.dumps(state["pre_tokenizer"]):
        return backend
    merges = _pairs(merge.split(" ") if isinstance(merge, str) else merge for merge in state["model"]["merges"])
    rebuilt = metaspace_bpe(
        state["model"]["vocab"], merges, unk=named.get("unk_token", "<unk>"), scheme=_llama_scheme(config)
    )
    for token in state["added_tokens"]:
        flags = {key: token[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        added = [AddedToken(token["content"], **flags)]
        (rebuilt.add_special_tokens if token["special"] else rebuilt.add_tokens)(added)
    if backend.post_processor is not None:
        rebuilt.post_processor = backend.post_processor
    return rebuilt


def _llama_from_sentencepiece(data: bytes, config: dict[str, Any], named: dict[str, str]) -> Backend:
    model = read_sentencepiece(data)
    for name, index in (("unk", model.unk_id), ("bos", model.bos_id), ("eos", model.eos_id)):
        if (piece := model.piece(index)) is not None:
            named.setdefault(f"{name}_token", piece)
    if model.model_type == BPE:
        vocab = {text: index for index, (text, _, _) in enumerate(model.pieces)}
        backend = metaspace_bpe(vocab, merges_of(vocab), unk=model.piece(model.unk_id), scheme=_llama_scheme(config))
    else:
        backend = unigram(model)
    _add_pieces(backend, model.pieces)
    config.setdefault("add_bos_token", True)  # LLaMA's own files say nothing and mean BOS
    return backend


def siglip_backend(data: bytes, named: dict[str, str]) -> Backend:
    """SigLIP's Unigram, ended by its end token.

    Args:
        data: the bytes of spiece.model.
        named: special tokens by name; the missing ones are filled in.
    """
    model = read_sentencepiece(data)
    for name, token in (("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "</s>")):
        named.setdefault(name, token)
    backend = unigram(model)
    scheme = "always"  # SiglipTokenizer prefixes every text itself
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme=scheme, split=True)
    _add_pieces(backend, model.pieces)
    end = named["eos_token"]
    index = backend.token_to_id(end)
    if index is None:
        raise CheckpointError("tokenizer_malformed", f"spiece.model has {len(model.pieces)} pieces and no {end}")
    backend.post_processor = processors.TemplateProcessing(single=f"$A:0 {end}:0", special_tokens=[(end, index)])
    return backend


def _add_pieces(backend: Backend, pieces: Iterable[tuple[str, float, int]]) -> None:
    for text, _, kind in pieces:
        if kind in (CONTROL, USER_DEFINED):
            added = [AddedToken(text, special=kind == CONTROL, normalized=False)]
            (backend.add_special_tokens if kind == CONTROL else backend.add_tokens)(added)


def _named_tokens(config: Mapping[str, Any], older: Mapping[str, Any]) -> dict[str, str]:
    named = {}
    for name in NAMED:
        value = config.get(name) or older.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            named[name] = value
    return named


def _add_tokens(backend: Backend, config: Mapping[str, Any], folder: Path) -> None:
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = config.get("added_tokens_decoder") or {}
    for _, token in sorted(listed.items(), key=lambda item: int(item[0])):
        if token["content"] not in known:
            flags = {key: bool(token.get(key)) for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            added = [AddedToken(token["content"], **flags)]
            (backend.add_special_tokens if flags["special"] else backend.add_tokens)(added)
            known.add(token["content"])
    older = sorted(_read_json(folder / "added_tokens.json").items(), key=lambda item: item[1])
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    extra = list(extra.values()) if isinstance(extra, Mapping) else list(extra)
    for token in [name for name, _ in older] + extra:
        content = token["content"] if isinstance(token, Mapping) else token
        if content not in known:
            backend.add_special_tokens([AddedToken(content, special=True, normalized=False)])
            known.add(content)


def _apply_flags(backend: Backend, config: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Put beginning and end tokens where `add_bos_token` and `add_eos_token` say; leave the rest alone."""
    if config.get("add_bos_token") is None and config.get("add_eos_token") is None:
        return
    bos = named.get("bos_token") if config.get("add_bos_token") else None
    eos = named.get("eos_token") if config.get("add_eos_token") else None
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (bos, eos) if token])
    pattern = [f"{bos}:0"] if bos else []
    pattern += ["$A:0"] + ([f"{eos}:0"] if eos else [])
    backend.post_processor = processors.TemplateProcessing(
        single=" ".join(pattern),
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys((bos, eos)) if token],
    )


def _pairs(merges: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    return [(left, right) for left, right in merges]


def _generation_eos(folder: Path) -> tuple[int, ...]:
    value = _read_json(folder / "generation_config.json").get("eos_token_id")
    values = value if isinstance(value, list) else [value]
    return tuple(item for item in values if isinstance(item, int))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError("tokenizer_malformed", f"{path} is not JSON: {_one_line(error)}") from error
    return value if isinstance(value, dict) else {}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
