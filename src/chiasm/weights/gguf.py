"""GGUF files of LLaMA-like language models, read into our `Decoder`.

The format (v2, v3): magic, version, counts, typed metadata, tensor descriptions, then aligned data. The
metadata is read here, in one pass over the mapped file (a vocabulary of 49,152 takes 0.1 s); block formats are
turned into floats by the `gguf` package. llama.cpp stores the rows of `attn_q` and `attn_k` interleaved, for
rotary pairs (2c, 2c + 1); published checkpoints, and we, pair (c, c + C/2): `Interleaved` undoes that.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.language.decoder import DecoderConfig
from chiasm.weights.layouts.llama import decoder_config
from chiasm.weights.meta import build_on_meta, shapes_of
from chiasm.weights.rules import Rename, Rule, Shape
from chiasm.weights.table import Table, execute

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VALUE_LIMIT = 2**24
_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor: its shape in row-major order, its block format's number, its bytes."""

    shape: tuple[int, ...]
    kind: int
    data: np.ndarray


@dataclass(frozen=True, slots=True)
class GGUF:
    """A mapped file: metadata by the keys of the format (``tokenizer.ggml.tokens``, …) and tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]


@dataclass(frozen=True, slots=True)
class Interleaved(Rename):
    """Rows of a rotary projection: interleaved pairs on their side, halves on ours."""

    heads: int

    def forward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(H·C, D) with pairs (2c, 2c + 1) → pairs (c, c + C/2)."""
        x = tensors[0]
        return [x.unflatten(0, (self.heads, -1, 2)).transpose(1, 2).reshape(x.shape)]

    def backward(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The inverse."""
        x = tensors[0]
        return [x.unflatten(0, (self.heads, 2, -1)).transpose(1, 2).reshape(x.shape)]


class _Reader:
    """A cursor over the mapped file that never leaves it."""

    def __init__(self, buffer: mmap.mmap, path: Path) -> None:
        self.buffer, self.path, self.at = buffer, path, 0

    def bad(self, why: str) -> CheckpointError:
        return CheckpointError("gguf_damaged", f"{self.path}: {why} at byte {self.at} of {len(self.buffer)}")

    def take(self, code: str) -> Any:
        try:
            (value,) = struct.unpack_from("<" + code, self.buffer, self.at)
        except struct.error:
            raise self.bad("it ends early") from None
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.take("Q")
        if length > len(self.buffer) - self.at:
            raise self.bad(f"a string of {length} bytes")
        self.at += length
        return self.buffer[self.at - length : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind != _ARRAY:
            raise self.bad(f"value type {kind} is unknown")
        kind, count = self.take("I"), self.take("Q")
        if count > _VALUE_LIMIT:
            raise self.bad(f"an array of {count} values, limit {_VALUE_LIMIT}")
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        if kind not in _SCALARS:
            raise self.bad(f"an array of type {kind}")
        size = struct.calcsize("<" + _SCALARS[kind]) * count
        if size > len(self.buffer) - self.at:
            raise self.bad(f"an array of {count} values")
        values = np.frombuffer(self.buffer, "<" + _SCALARS[kind], count, self.at).tolist()
        self.at += size
        return values


def read_gguf(path: Path | str) -> GGUF:
    """Map a GGUF file; no tensor is decoded.

    Args:
        path: the file (little-endian, version 2 or 3).

    Returns:
        Its metadata and tensors.

    Raises:
        CheckpointError: ``gguf_damaged`` when it isn't one, or is cut short.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    path = Path(path)
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        if size < 24:
            raise CheckpointError("gguf_damaged", f"{path} has {size} bytes, a GGUF file at least 24")
        reader = _Reader(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), path)
    if reader.buffer[:4] != b"GGUF":
        raise reader.bad("no GGUF magic")
    reader.at = 4
    version, num_tensors, num_values = reader.take("I"), reader.take("Q"), reader.take("Q")
    if version not in (2, 3) or num_tensors > 2**16 or num_values > 2**16:
        raise reader.bad(f"version {version}, {num_tensors} tensors, {num_values} values")
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        key = reader.text()
        if key in metadata:
            raise reader.bad(f"{key} stands there twice")
        metadata[key] = reader.value(reader.take("I"))
    infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(num_tensors):
        name, rank = reader.text(), reader.take("I")
        if name in infos or rank > 4:
            raise reader.bad(f"{name} stands there twice or has {rank} axes")
        shape = tuple(reader.take("Q") for _ in range(rank))[::-1]  # stored fastest axis first
        infos[name] = (shape, reader.take("I"), reader.take("Q"))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**16:
        raise reader.bad(f"alignment {alignment}")
    start = -(-reader.at // alignment) * alignment
    tensors = {}
    for name, (shape, kind, offset) in infos.items():
        if kind not in GGMLQuantizationType._value2member_map_:
            raise reader.bad(f"{name} has the unknown format {kind}")
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        count = math.prod(shape)
        length = count // block * block_bytes
        if not shape or shape[-1] % block or start + offset + length > len(reader.buffer):
            raise reader.bad(f"{name} {shape} does not fit")
        data = np.frombuffer(reader.buffer, np.uint8, length, start + offset)
        tensors[name] = GGUFTensor(shape, kind, data.reshape(*shape[:-1], -1))
    return GGUF(path, metadata, tensors)


def hf_config(file: GGUF) -> dict[str, Any]:
    """The model's ``config.json``, in the form that transformers writes for LLaMA.

    Args:
        file: from `read_gguf`.

    Returns:
        The config.

    Raises:
        ConfigError: another architecture, or a rotary scaling that we don't know.
    """
    meta = file.metadata
    architecture = meta.get("general.architecture")
    if architecture != "llama":
        raise ConfigError("gguf_architecture", f"{file.path} holds a {architecture!r} model; known is 'llama'")

    def get(key: str, default: Any = None) -> Any:
        value = meta.get(f"llama.{key}", default)
        if value is None:
            raise ConfigError("gguf_metadata", f"{file.path} lacks llama.{key}")
        # 32-bit floats by their shortest spelling: 1e-05, not 9.999999747378752e-06
        return float(str(np.float32(value))) if isinstance(value, float) else value

    scaling = meta.get("llama.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise ConfigError("rope_unknown", f"{file.path} uses {scaling!r} rotary scaling; known are none, linear")
    rope = {"rope_type": "default", "rope_theta": get("rope.freq_base", 10000.0)}
    if scaling == "linear":
        rope = {"rope_type": "linear", "rope_theta": rope["rope_theta"], "factor": get("rope.scaling.factor")}
    width, heads = get("embedding_length"), get("attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": file.tensors["token_embd.weight"].shape[0]
        if "token_embd.weight" in file.tensors
        else get("vocab_size"),
        "hidden_size": width,
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": get("rope.dimension_count", width // heads),
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope,
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": meta.get("tokenizer.ggml.padding_token_id"),
    }


def gguf_table(config: DecoderConfig) -> Table:
    """llama.cpp's names for a LLaMA decoder.

    Args:
        config: for its head counts.

    Returns:
        The rules.
    """
    q, k = config.num_heads, config.num_kv_heads
    rules: list[Rule] = [
        Rename("token_embd.weight", "embed_tokens.weight"),
        Rename("output_norm.weight", "norm.weight"),
        Rename("output.weight", "lm_head.weight"),
        Rename("blk.{i}.attn_norm.weight", "blocks.{i}.norm1.weight"),
        Rename("blk.{i}.ffn_norm.weight", "blocks.{i}.norm2.weight"),
        Interleaved("blk.{i}.attn_q.{p}", "blocks.{i}.attn.q_proj.{p}", q),
        Interleaved("blk.{i}.attn_k.{p}", "blocks.{i}.attn.k_proj.{p}", k),
        Rename("blk.{i}.attn_v.{p}", "blocks.{i}.attn.v_proj.{p}"),
        Rename("blk.{i}.attn_output.{p}", "blocks.{i}.attn.o_proj.{p}"),
    ]
    rules += [Rename(f"blk.{{i}}.ffn_{n}.{{p}}", f"blocks.{{i}}.mlp.{n}_proj.{{p}}") for n in ("gate", "up", "down")]
    return Table(rules)


def decoder_state(file: GGUF, dtype: torch.dtype = torch.float32) -> tuple[DecoderConfig, dict[str, torch.Tensor]]:
    """Decode a LLaMA-like model.

    Args:
        file: from `read_gguf`.
        dtype: of the tensors returned; float32 is exact for every block format.

    Returns:
        The decoder's config and its whole state dict, proved complete against the module.

    Raises:
        CheckpointError: missing, unexpected or wrong-shaped tensors, by name.
        ConfigError: see `hf_config`.
    """
    config = decoder_config(hf_config(file))
    return config, decoded_state(file, gguf_table(config), shapes_of(build_on_meta(config)), dtype)


def decoded_state(
    file: GGUF, table: Table, expected: Mapping[str, Shape], dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Decode every tensor of a file under our names.

    Args:
        file: from `read_gguf`.
        table: the file's names and ours.
        expected: shapes by our names, all of which must be there.
        dtype: of the tensors returned.

    Returns:
        The state dict.

    Raises:
        CheckpointError: missing, unexpected or wrong-shaped tensors, by name.
    """
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    steps = table.check(shapes, expected, str(file.path))
    decoded = {name: _decode(tensor, dtype) for name, tensor in file.tensors.items()}
    return {name: tensor.contiguous() for name, tensor in execute(steps, decoded, "theirs").items()}


def _decode(tensor: GGUFTensor, dtype: torch.dtype) -> torch.Tensor:
    from gguf import quants
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType(tensor.kind)
    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}.get(kind.name)
    if plain is not None:
        return torch.from_numpy(tensor.data.copy()).view(plain).to(dtype)
    decode = getattr(getattr(quants, kind.name, None), "dequantize_blocks", None)
    if decode is None:
        raise CheckpointError("gguf_format", f"a tensor in the format {kind.name} can't be turned into floats")
    block, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = tensor.data.reshape(-1, block_bytes)
    values = np.empty((len(blocks), block), np.float32)
    # the package's own `dequantize` goes by 16 rows at a time, which is twice as slow
    for at in range(0, len(blocks), _CHUNK):
        values[at : at + _CHUNK] = decode(blocks[at : at + _CHUNK])
    return torch.from_numpy(values).reshape(tensor.shape).to(dtype)
