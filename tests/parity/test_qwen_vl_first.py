"""Qwen-VL as published: every tensor's name, the tower and the MLP as the published code computes them, positions
beyond the trained context by their equations, the tokenizer's ranks against a plain loop, a folder there and back."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import chiasm
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.models import qwen_vl
from chiasm.models.assembly import llama
from chiasm.nn.positions import LogRotaryConfig
from chiasm.processing import tiktoken_files
from chiasm.processing.miniature import CORPUS, learn_merges
from chiasm.processing.prompt import slot_name
from chiasm.processing.tokenizer import Tokenizer
from chiasm.weights.checkpoint import read_config, save_state
from chiasm.weights.layouts import layout_for, layout_of

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def names_published() -> set[str]:
    names = {"transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight"}
    for i in range(32):
        own = ("ln_1.weight", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "ln_2.weight",
               "mlp.w1.weight", "mlp.w2.weight", "mlp.c_proj.weight")  # fmt: skip
        names |= {f"transformer.h.{i}.{n}" for n in own}
    visual = {"positional_embedding", "conv1.weight", "proj", "attn_pool.query", "attn_pool.pos_embed",
              "attn_pool.kv_proj.weight", "attn_pool.attn.in_proj_weight", "attn_pool.attn.in_proj_bias"}  # fmt: skip
    pairs = ["ln_pre", "ln_post", "attn_pool.ln_q", "attn_pool.ln_kv", "attn_pool.attn.out_proj"]
    for i in range(48):
        block = ("ln_1", "ln_2", "attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
        pairs += [f"transformer.resblocks.{i}.{n}" for n in block]
    visual |= {f"{n}.{p}" for n in pairs for p in ("weight", "bias")}
    return names | {f"transformer.visual.{n}" for n in visual}


def test_the_published_size_has_every_published_tensor() -> None:
    config = qwen_vl.PRESETS["qwen_vl_7b"]
    with torch.device("meta"):
        module = config.build()
    stored = json.loads(json.dumps(layout_of(config).config_to(config)))
    assert layout_for(stored).name == "qwen_vl" and layout_for(stored).config_from(stored) == config
    visual = {"heads": 16, "image_size": 448, "image_start_id": 151857, "layers": 48, "mlp_ratio": 4.9231,
              "output_dim": 4096, "patch_size": 14, "width": 1664}  # fmt: skip
    assert layout_for(stored).config_from({**stored, "visual": visual}) == config  # as the hub has it
    theirs = layout_of(config).table(config).to_theirs(module.state_dict())
    assert set(theirs) == names_published()
    assert theirs["transformer.visual.positional_embedding"].shape == (256, 1664)
    assert theirs["transformer.h.0.attn.c_attn.weight"].shape == (3 * 4096, 4096)
    counts = {name: sum(t.numel() for t in part.state_dict().values()) for name, part in module.named_children()}
    # table 1 of the paper: 1.9B, 0.08B, 7.7B
    assert counts == {"vision": 1_842_770_688, "connector": 92_839_936, "language": 7_721_324_544}
    with pytest.raises(ConfigError, match="no visual part"):
        layout_for(stored).config_from({key: value for key, value in stored.items() if key != "visual"})


def published_tower(state: dict, config, pixels: torch.Tensor) -> torch.Tensor:
    """The visual part as the authors' code computes it from its own tensors."""
    own = {name.removeprefix("transformer.visual."): t for name, t in state.items() if ".visual." in name}
    vision, pool = config.vision, config.connector

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], own[name + ".weight"], own[name + ".bias"], 1e-6)

    def linear(x, name):
        return F.linear(x, own[name + ".weight"], own[name + ".bias"])

    def stretched(places, count):
        side, new = round(len(places) ** 0.5), round(count**0.5)
        grid = places.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        return F.interpolate(grid, (new, new), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(0, 2)

    x = F.conv2d(pixels, own["conv1.weight"], stride=vision.patch_size).flatten(2).transpose(1, 2)
    x = norm(x + stretched(own["positional_embedding"], x.shape[1]), "ln_pre")
    for i in range(vision.num_layers):
        block = f"transformer.resblocks.{i}."
        # (…, heads, 3·C): a head's query, key and value stand side by side
        mixed = linear(norm(x, block + "ln_1"), block + "attn.in_proj").unflatten(-1, (vision.num_heads, -1))
        q, k, v = (part.transpose(1, 2) for part in mixed.chunk(3, -1))
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), block + "attn.out_proj")
        x = x + linear(F.gelu(linear(norm(x, block + "ln_2"), block + "mlp.c_fc")), block + "mlp.c_proj")
    places = stretched(own["attn_pool.pos_embed"], x.shape[1])
    x = norm(x @ own["attn_pool.kv_proj.weight"].T, "attn_pool.ln_kv")
    attention = torch.nn.MultiheadAttention(pool.output_dim, pool.num_heads, batch_first=True)
    prefix = "attn_pool.attn."
    attention.load_state_dict({n.removeprefix(prefix): t for n, t in own.items() if n.startswith(prefix)})
    queries = norm(own["attn_pool.query"], "attn_pool.ln_q") + own["attn_pool.pos_embed"]
    out = attention(queries.expand(len(x), -1, -1), x + places, x)[0]
    return norm(out, "ln_post") @ own["proj"]


def test_tower_and_mlp_compute_what_the_published_names_mean() -> None:
    model = chiasm.new("qwen_vl")
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(parameter.numel()))
        state = layout_of(model.config).table(model.config).to_theirs(model.module.state_dict())
        pixels = torch.randn(2, 3, 32, 32, generator=torch.manual_seed(0))
        ours = model.module.connector(model.module.visual_features(pixels))
        assert (ours - published_tower(state, model.config, pixels)).abs().max() <= 1e-5
        x, mlp = torch.randn(3, 48, generator=torch.manual_seed(1)), "transformer.h.1.mlp."
        first, second = (x @ state[f"{mlp}{n}.weight"].T for n in ("w1", "w2"))
        wanted = (first * F.silu(second)) @ state[mlp + "c_proj.weight"].T
        assert (model.module.language.blocks[1].mlp(x) - wanted).abs().max() <= 1e-6


def written_out(decoder, ids: torch.Tensor, trained: int, prompt: int, *, ntk: bool, log: bool) -> torch.Tensor:
    """Qwen's logits of one text, token by token and pair by pair; `prompt` is the length that decides how it turns."""
    config = decoder.config
    width, heads = config.head_width, config.num_heads
    alpha = max(2 ** math.ceil(math.log(prompt / trained, 2) + 1) - 1, 1) if ntk else 1
    base = 10000.0 * alpha ** (width / (width - 2))

    def turned(x: torch.Tensor, place: int) -> torch.Tensor:  # (heads, width)
        out = torch.empty_like(x)
        for c in range(width // 2):
            angle = place * base ** (-2 * c / width)
            a, b = x[:, c], x[:, c + width // 2]
            out[:, c] = a * math.cos(angle) - b * math.sin(angle)
            out[:, c + width // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    x = decoder.embed_tokens(ids)
    for block in decoder.blocks:
        y = block.norm1(x)
        q, k, v = (getattr(block.attn, f"{n}_proj")(y).view(-1, heads, width) for n in "qkv")
        mixed = []
        keys = torch.stack([turned(k[m], m) for m in range(len(ids))])
        for n in range(len(ids)):
            grown = math.log(n + 1, trained) if log and n + 1 > trained else 1
            scores = torch.einsum("hc,mhc->hm", turned(q[n], n) * grown, keys[: n + 1]) / width**0.5
            mixed.append(torch.einsum("hm,mhc->hc", scores.softmax(-1), v[: n + 1]).flatten())
        x = x + block.attn.o_proj(torch.stack(mixed))
        x = x + block.mlp(block.norm2(x))
    return decoder.logits(decoder.norm(x))


@pytest.mark.parametrize(("ntk", "log"), [(True, True), (True, False), (False, True)])
@torch.inference_mode()
def test_beyond_the_trained_context_positions_are_the_equations(ntk: bool, log: bool) -> None:
    """Prompts within it, at its end, twice and more than four times as long; a cached text turns as its prompt did."""
    trained = 8
    rotary = qwen_vl.stretched(trained)
    rotary = rotary if log else replace(qwen_vl.RotaryConfig(), scaling=rotary.scaling)
    rotary = rotary if ntk else replace(rotary, scaling=None)
    decoder = llama(50, 24, 2, 2, 2, 32, context=64, eps=1e-6, qkv_bias=True, rotary=rotary).build().eval()
    generator = torch.manual_seed(0)
    for parameter in decoder.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    ids = torch.randint(0, 50, (40,), generator=generator)
    plain = written_out(decoder, ids, trained, 40, ntk=False, log=False)
    for length in (5, 8, 9, 16, 17, 40):
        found = decoder.logits(decoder(decoder.embed_tokens(ids[None, :length])))[0]
        wanted = written_out(decoder, ids[:length], trained, length, ntk=ntk, log=log)
        assert (found - wanted).abs().max() <= 1e-5, length
        assert (length <= trained) == bool((found - plain[:length]).abs().max() <= 1e-5), length
    cache = decoder.new_cache(1, 40)
    parts = [decoder.logits(decoder(decoder.embed_tokens(ids[None, :15]), cache=cache))]
    parts += [
        decoder.logits(decoder(decoder.embed_tokens(ids[None, at : at + 1]), cache=cache)) for at in range(15, 40)
    ]
    wanted = written_out(decoder, ids, trained, 15, ntk=ntk, log=log)
    assert (torch.cat(parts, 1)[0] - wanted).abs().max() <= 1e-5


def test_what_a_config_says_of_the_trained_context_is_read_and_written() -> None:
    config = qwen_vl.PRESETS["qwen_vl_7b"]
    layout = layout_of(config)
    assert config.language.context_length == 8192 and config.language.rotary == qwen_vl.stretched(2048)
    stored = layout.config_to(config)
    assert (stored["seq_length"], stored["use_dynamic_ntk"], stored["use_logn_attn"]) == (2048, True, True)
    for ntk in (True, False):
        for log in (True, False):
            read = layout.config_from({**stored, "use_dynamic_ntk": ntk, "use_logn_attn": log})
            assert read.language.rotary is not None and (read.language.rotary.scaling is not None) == ntk
            assert isinstance(read.language.rotary, LogRotaryConfig) == log
            assert layout.config_from(layout.config_to(read)) == read
    odd = replace(config.language, rotary=replace(qwen_vl.stretched(2048), log_context=1024))
    with pytest.raises(ConfigError, match="Qwen's own rotary positions"):
        layout.config_to(replace(config, language=odd))


def rank_file() -> bytes:
    """Every byte, and some pieces learned from a few sentences."""
    words = [word.encode() for line in CORPUS for word in line.replace(" ", "\0 ").split("\0")]
    merges = learn_merges([[chr(byte) for byte in word] for word in words], 80)
    pieces = [bytes([byte]) for byte in range(256)]
    pieces += dict.fromkeys("".join(pair).encode("latin-1") for pair in merges)
    return tiktoken_files.write_ranks(pieces)


def looped(text: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Join the pair of lowest rank, again and again."""
    if text in ranks:
        return [ranks[text]]
    parts = [text[at : at + 1] for at in range(len(text))]
    while True:
        found = [(ranks[a + b], at) for at, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in ranks]
        if not found:
            return [ranks[part] for part in parts]
        at = min(found)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def test_ranks_give_the_pieces_of_a_plain_loop(tmp_path) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(rank_file())
    (tmp_path / "config.json").write_text('{"model_type": "qwen", "visual": {"width": 1}}')
    tokenizer = Tokenizer.from_folder(tmp_path)
    pieces = tiktoken_files.read_ranks(rank_file())
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    cases = {
        "there are two dogs": ["there", " are", " two", " dogs"],
        "It's 365!": ["It", "'s", " ", "3", "6", "5", "!"],
        "a\n\n  b": ["a", "\n\n", " ", " b"],
        "cafe\u0301 狗": ["caf\u00e9", " 狗"],  # composed first
    }
    for text, words in cases.items():
        wanted = [rank for word in words for rank in looped(word.encode(), ranks)]
        assert tokenizer.encode(text) == wanted, text
        assert tokenizer.decode(wanted) == "".join(words)
    start = len(pieces)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert [tokenizer.token_to_id(token) for token in special] == [start, start + 1, start + 2]
    assert tokenizer.token_to_id("<|extra_204|>") == start + 207
    # behind 151,643 ranks these are 151851 to 151859
    assert [tokenizer.token_to_id(token) for token in tiktoken_files.QWEN_VL_CONTROLS] == list(
        range(start + 208, start + 217)
    )
    assert tokenizer.encode("<img>") != [tokenizer.token_to_id("<img>")]  # typed by somebody


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"!!! 0", "line 1 of 1"),
        (b"YQ== 5", "rank 5 of 1"),
        (b"YQ== 0\nYQ== 1", "stand twice"),
        (b"YQ== 0", "255 of 256 bytes"),
        (base64.b64encode(b"a" * 5000) + b" 0", "5000 bytes"),
    ],
)
def test_a_broken_rank_file_is_told(data, what, tmp_path) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(data)
    with pytest.raises(CheckpointError, match=what):
        Tokenizer.from_folder(tmp_path)


def folder_of(path: Path, chat: str) -> Path:
    """A published folder at tiny width: ranks, no template, no picture settings."""
    model = chiasm.new("qwen_vl")
    model.save(path / "made")
    out = path / "published"
    out.mkdir()
    pieces = tiktoken_files.read_ranks(rank_file())
    slot = len(pieces) + 216
    state = layout_of(model.config).table(model.config).to_theirs(model.module.state_dict())
    wide = torch.randn(slot + 5, 48, generator=torch.manual_seed(0)) * 0.1
    state["transformer.wte.weight"], state["lm_head.weight"] = wide, wide.clone()
    save_state(out, state)
    stored = read_config(path / "made")
    stored["visual"]["image_start_id"] = slot - 2
    (out / "config.json").write_text(json.dumps({**stored, "vocab_size": slot + 5}))
    (out / "generation_config.json").write_text(json.dumps({"chat_format": chat}))
    (out / "qwen.tiktoken").write_bytes(rank_file())
    (out / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 8192, "tokenizer_class": "QWenTokenizer", "auto_map": {"AutoTokenizer": "x.Y"}})
    )
    return out


@pytest.mark.parametrize("chat", ["chatml", "raw"])
def test_a_published_folder_is_read_answers_and_comes_back(chat, tmp_path) -> None:
    model = chiasm.load(folder_of(tmp_path, chat))
    image = {"type": "image", "image": PICTURE}
    talk = [{"role": "user", "content": [image, {"type": "text", "text": "what?"}, image]}]
    prompt = model.processor.prompt(talk).text
    slot = f"<img>{slot_name(4)}</img>"
    body = f"Picture 1: {slot}\nwhat?Picture 2: {slot}\n"
    if chat == "chatml":
        system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        assert prompt == f"{system}<|im_start|>user\n{body}<|im_end|>\n<|im_start|>assistant\n"
        assert model.processor.tokenizer.eos_id == model.processor.tokenizer.token_to_id("<|im_end|>")
    else:
        assert prompt == body
    reply = model.generate([talk], max_new_tokens=4)[0]
    model.save(tmp_path / "again")
    again = chiasm.load(tmp_path / "again")
    assert again.config == model.config and again.generate([talk], max_new_tokens=4)[0].token_ids == reply.token_ids
    assert (tmp_path / "again" / "qwen.tiktoken").read_bytes() == rank_file()
    assert again.processor.prompt(talk).ids == model.processor.prompt(talk).ids
    found = model.ground(PICTURE, "the red car")
    assert found.size == (90, 60)
