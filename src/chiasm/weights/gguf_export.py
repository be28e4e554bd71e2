"""LLaVA-shaped models as llama.cpp's two GGUF files: the language model, and the tower with its connector (``mmproj``).

Names and keys are those of llama.cpp: `llama` for the text, `clip` with a projector of kind `mlp` for the pictures.
`read_back` builds the whole model from the two files alone, so that an export can be proved before it is announced.

What llama.cpp computes otherwise than the published model: its projector's GELU is the tanh form, and a picture is
padded to a square where some folders crop its centre.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chiasm.connectors.mlp import MLPConnectorConfig
from chiasm.core.errors import ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.models.llava import Llava, LlavaConfig
from chiasm.nn.positions import RotaryConfig
from chiasm.processing.sentencepiece_model import CONTROL, USER_DEFINED
from chiasm.processing.tokenizer import Tokenizer
from chiasm.vision.patches import PatchSelection
from chiasm.vision.vit import ViTConfig
from chiasm.weights.gguf import GGUF, decoded_state, decoder_state, gguf_table, read_gguf
from chiasm.weights.meta import build_on_meta, shapes_of
from chiasm.weights.rules import Rename, Rule
from chiasm.weights.table import Table

KINDS = {"f32": 0, "f16": 1, "q8_0": 7}  # llama.cpp's numbers of file types
NORMAL, UNUSED, BYTE = 1, 5, 6  # kinds of tokens; CONTROL and USER_DEFINED are SentencePiece's own
ACTS = {"gelu": True, "gelu_pytorch_tanh": True, "quick_gelu": False}
PROBES = ("What is in the picture?", "  two  spaces, 1234 and é ü 漢字 🙂\n\ttab", "don't stop:\n\n- it's 3.14")


def check_exportable(model: Any) -> None:
    """Refuse what llama.cpp's files can't say.

    Raises:
        ConfigError: another family, or a variant of the parts; it is named.
    """
    config = model.config
    if not isinstance(config, LlavaConfig):
        what = f"{model.name} is a {model.family.name}; GGUF is written of LLaVA-shaped models"
        raise ConfigError("export_family", what, hint="--to hf")
    language, vision, rotary = config.language, config.vision, config.language.rotary
    plain = RotaryConfig(theta=rotary.theta, linear_factor=rotary.linear_factor) if rotary else None
    wrong = {
        "a linear connector": not isinstance(config.connector, MLPConnectorConfig),
        "a connector without biases": isinstance(config.connector, MLPConnectorConfig) and not config.connector.bias,
        "a language model of another kind than LLaMA's": type(language) is not DecoderConfig
        or not (language.rms_norm and language.gated and language.act == "silu")
        or language.parallel or language.embed_scale != 1.0 or language.positions is not None,
        "norms of queries and keys": language.qk_norm is not None or vision.qk_norm is not None,
        "rotary positions that aren't plain": rotary is None or rotary != plain,
        "features with the class token": config.selection.keep_class_token,
        "features of several layers": len(config.selection.layers) > 1,
        f"a tower with the activation {vision.act}": vision.act not in ACTS,
        "a tower of another kind than CLIP's": vision.sublayer_norm or vision.rms_norm or vision.layer_scale is not None
        or vision.position_grid is not None or not vision.qkv_bias,
    }  # fmt: skip
    found = [what for what, is_so in wrong.items() if is_so]
    if found:
        raise ConfigError("export_variant", f"{model.name} has {', '.join(found)}; llama.cpp's files can't say that")


def write_gguf(model: Any, folder: Path, kind: str) -> tuple[Path, Path]:
    """Write both files.

    Args:
        model: a LLaVA, see `check_exportable`.
        folder: an existing folder.
        kind: ``f32``, ``f16`` or ``q8_0``; the tower stays in 16 bits where the text has 8.

    Returns:
        The text's file and the pictures' file.

    Raises:
        ConfigError: the tokenizer is of a kind that GGUF has no name for.
    """
    text, pictures = folder / f"model-{kind}.gguf", folder / f"mmproj-{'f32' if kind == 'f32' else 'f16'}.gguf"
    config, state = model.config, {name: x.detach().float().cpu() for name, x in model.module.state_dict().items()}
    _write_text(model, text, kind, _under(state, "language."))
    unread = tuple(f"vision.{name}" for name in config.selection.unread(config.vision))
    seen = {name: x for name, x in state.items() if not name.startswith(("language.", *unread))}
    _write_pictures(model, pictures, "f32" if kind == "f32" else "f16", seen)
    return text, pictures


def read_back(text: Path, pictures: Path) -> Llava:
    """The whole model, from the two files alone.

    Raises:
        CheckpointError: a file is damaged or not complete.
        ConfigError: another architecture.
    """
    language, state = decoder_state(read_gguf(text))
    file = read_gguf(pictures)
    vision = _vision_config(file)
    connector = MLPConnectorConfig(input_dim=vision.hidden_dim, output_dim=language.hidden_dim)
    config = LlavaConfig(
        vision=vision, connector=connector, language=language, image_token_id=0, selection=PatchSelection(layer=-1)
    )
    module = build_on_meta(config)
    expected = {name: shape for name, shape in shapes_of(module).items() if not name.startswith("language.")}
    whole = {f"language.{name}": x for name, x in state.items()} | decoded_state(file, clip_table(), expected)
    module.load_state_dict(whole, strict=True, assign=True)
    assert isinstance(module, Llava)
    return module.eval()


def clip_table() -> Table:
    """llama.cpp's names for a CLIP tower and a two-layer connector."""
    layer, block = "v.blk.{i}.", "vision.blocks.{i}."
    rules: list[Rule] = [
        Rename("v.class_embd", "vision.cls_token"),
        Rename("v.patch_embd.{p}", "vision.patch_embed.{p}"),
        Rename("v.position_embd.weight", "vision.pos_embed"),
        Rename("v.pre_ln.{p}", "vision.norm_pre.{p}"),
        *(Rename(f"{layer}attn_{n}.{{p}}", f"{block}attn.{n}_proj.{{p}}") for n in "qkv"),
        Rename(layer + "attn_out.{p}", block + "attn.o_proj.{p}"),
        *(Rename(f"{layer}ln{n}.{{p}}", f"{block}norm{n}.{{p}}") for n in "12"),
        Rename(layer + "ffn_up.{p}", block + "mlp.fc1.{p}"),
        Rename(layer + "ffn_down.{p}", block + "mlp.fc2.{p}"),
        Rename("mm.0.{p}", "connector.fc1.{p}"),
        Rename("mm.2.{p}", "connector.fc2.{p}"),
    ]
    return Table(rules)


def _write_text(model: Any, path: Path, kind: str, state: dict[str, torch.Tensor]) -> None:
    config: DecoderConfig = model.config.language
    assert config.rotary is not None
    keys: dict[str, Any] = {
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.context_length,
        "llama.embedding_length": config.hidden_dim,
        "llama.block_count": config.num_layers,
        "llama.feed_forward_length": config.mlp_dim,
        "llama.attention.head_count": config.num_heads,
        "llama.attention.head_count_kv": config.num_kv_heads,
        "llama.attention.key_length": config.head_width,
        "llama.attention.value_length": config.head_width,
        "llama.attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "llama.rope.dimension_count": config.head_width,
        "llama.rope.freq_base": float(config.rotary.theta),
    }
    if config.rotary.linear_factor != 1.0:
        keys |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": config.rotary.linear_factor}
    keys |= tokenizer_fields(model.processor.tokenizer, model.processor.template, config.vocab_size)
    _write(path, "llama", model.name, kind, keys, gguf_table(config).to_theirs(state))


def _write_pictures(model: Any, path: Path, kind: str, state: dict[str, torch.Tensor]) -> None:
    vision: ViTConfig = model.config.vision
    depth = _depth(model.config)
    pictures = model.processor.image_processor
    keys: dict[str, Any] = {
        "clip.has_vision_encoder": True,
        "clip.has_text_encoder": False,
        "clip.has_llava_projector": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": ACTS[vision.act],
        "clip.vision.image_size": vision.image_size,
        "clip.vision.patch_size": vision.patch_size,
        "clip.vision.embedding_length": vision.hidden_dim,
        "clip.vision.feed_forward_length": vision.mlp_dim,
        "clip.vision.projection_dim": model.config.language.hidden_dim,
        "clip.vision.block_count": depth,
        "clip.vision.attention.head_count": vision.num_heads,
        "clip.vision.attention.layer_norm_epsilon": float(vision.norm_eps),
        "clip.vision.feature_layer": [depth],
        "clip.vision.image_mean": [float(each) for each in pictures.mean],
        "clip.vision.image_std": [float(each) for each in pictures.std],
        "clip.vision.mm_patch_merge_type": "flat",
    }
    _write(path, "clip", model.name, kind, keys, clip_table().to_theirs(state))


def _vision_config(file: GGUF) -> ViTConfig:
    meta = file.metadata
    if meta.get("general.architecture") != "clip" or meta.get("clip.projector_type") != "mlp":
        raise ConfigError("gguf_architecture", f"{file.path} holds no CLIP tower with an MLP behind it")
    return ViTConfig(
        image_size=meta["clip.vision.image_size"],
        patch_size=meta["clip.vision.patch_size"],
        hidden_dim=meta["clip.vision.embedding_length"],
        num_layers=meta["clip.vision.block_count"],
        num_heads=meta["clip.vision.attention.head_count"],
        mlp_dim=meta["clip.vision.feed_forward_length"],
        act="gelu_pytorch_tanh" if meta["clip.use_gelu"] else "quick_gelu",
        norm_eps=float(str(np.float32(meta["clip.vision.attention.layer_norm_epsilon"]))),
        class_token="v.class_embd" in file.tensors,
        norm_pre="v.pre_ln.weight" in file.tensors,
        patch_bias="v.patch_embd.bias" in file.tensors,
        attention_pool=False,
        norm_post=False,
    )


def _depth(config: LlavaConfig) -> int:
    """How many blocks of the tower are run."""
    return config.selection.layers[0] % (config.vision.num_layers + 1)


def tokenizer_fields(tokenizer: Tokenizer, template: str | None, vocab_size: int) -> dict[str, Any]:
    """A tokenizer in GGUF's metadata, proved to give the same ids when it is read from there.

    Args:
        tokenizer: byte-level BPE as GPT-2's or SmolLM's, or LLaMA's BPE with bytes for the unknown.
        template: chat template, or None.
        vocab_size: rows of the embedding; ids that no token has are written as unused.

    Returns:
        Keys and values.

    Raises:
        ConfigError: of another kind.
    """
    model = json.loads(tokenizer.backend.to_str())["model"]
    if model["type"] != "BPE":
        raise ConfigError("export_tokenizer", f"GGUF has no name for a tokenizer of the kind {model['type']}")
    tokens = [tokenizer.id_to_token(index) for index in range(vocab_size)]
    added = tokenizer.backend.get_added_tokens_decoder()
    kinds = []
    for index, token in enumerate(tokens):
        if index in added:
            kinds.append(CONTROL if added[index].special else USER_DEFINED)
        else:
            kinds.append(UNUSED if token is None else BYTE if model["byte_fallback"] and _is_byte(token) else NORMAL)
    spelled = [f"[UNUSED{index}]" if token is None else token for index, token in enumerate(tokens)]
    fields: dict[str, Any] = {"tokenizer.ggml.tokens": spelled, "tokenizer.ggml.token_type": kinds}
    merges = [pair if isinstance(pair, list) else pair.split(" ", 1) for pair in model["merges"]]
    if model["byte_fallback"]:
        ranks: dict[str, int] = {}
        for rank, (left, right) in enumerate(merges):
            ranks.setdefault(left + right, rank)
        fields["tokenizer.ggml.model"] = "llama"
        fields["tokenizer.ggml.scores"] = [-float(ranks.get(token, len(merges) + 1)) for token in spelled]
    else:
        fields["tokenizer.ggml.model"] = "gpt2"
        fields["tokenizer.ggml.merges"] = [" ".join(pair) for pair in merges]
    named = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "unknown": tokenizer.unk_id, "padding": tokenizer.pad_id}
    fields |= {f"tokenizer.ggml.{name}_token_id": index for name, index in named.items() if index is not None}
    first, last = tokenizer.wrapping
    fields |= {"tokenizer.ggml.add_bos_token": bool(first), "tokenizer.ggml.add_eos_token": bool(last)}
    if template is not None:
        fields["tokenizer.chat_template"] = template
    return _proved(tokenizer, fields)


def _proved(tokenizer: Tokenizer, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the one pre-tokenizer, or handling of a first space, that gives the tokenizer's own ids."""
    if fields["tokenizer.ggml.model"] == "llama":
        choices = [
            {"tokenizer.ggml.add_space_prefix": prefix, "tokenizer.ggml.pre": "default"} for prefix in (True, False)
        ]
    else:
        choices = [{"tokenizer.ggml.pre": name} for name in ("smollm", "gpt-2")]
    expected = [tokenizer.encode(probe) for probe in PROBES]
    for choice in choices:
        again = Tokenizer.from_gguf(fields | choice)
        if [again.encode(probe) for probe in PROBES] == expected:
            return fields | choice
    raise ConfigError(
        "export_tokenizer", f"none of {len(choices)} ways to write this tokenizer gives its own ids again"
    )


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _under(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _write(path: Path, arch: str, name: str, kind: str, keys: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    writer = GGUFWriter(path, arch)
    writer.add_name(name)
    writer.add_file_type(KINDS[kind])
    for key, value in keys.items():
        _add(writer, key, value)
    for title, tensor in tensors.items():
        values = tensor.contiguous().numpy()
        if kind == "f32" or values.ndim == 1 or "position_embd" in title:  # llama.cpp keeps these in 32 bits
            writer.add_tensor(title, values.astype(np.float32))
        elif kind == "q8_0" and values.ndim == 2 and values.shape[-1] % 32 == 0:
            packed = quants.quantize(values, GGMLQuantizationType.Q8_0)
            writer.add_tensor(title, packed, raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(title, values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
