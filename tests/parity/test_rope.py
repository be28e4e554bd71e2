"""Scaled rotary positions beside transformers: tables, logits and both spellings of the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from chiasm.core.errors import ConfigError
from chiasm.language.decoder import Decoder
from chiasm.weights.checkpoint import load_state, open_checkpoint, read_config
from chiasm.weights.layouts import internlm2, llama, phi3, qwen2_vl
from chiasm.weights.layouts.languages import language_config, table
from chiasm.weights.meta import build_on_meta
from chiasm.weights.table import Table

WIDTH, TRAINED = 12, 32  # features of a head, positions of the original context
SHORT, LONG = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
KINDS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": TRAINED},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED},
    "yarn, given": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED, "beta_fast": 8.0,
                    "beta_slow": 2.0, "attention_factor": 1.7, "truncate": False},
    "yarn, two scales": {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": TRAINED,
                         "mscale": 1.0, "mscale_all_dim": 0.7},
    "longrope": {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "factor": 4.0,
                 "original_max_position_embeddings": TRAINED},
    "longrope, given": {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "attention_factor": 1.3,
                        "original_max_position_embeddings": TRAINED},
}  # fmt: skip
SHAPE = {"vocab_size": 50, "hidden_size": 4 * WIDTH, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 1,
         "pad_token_id": None}  # fmt: skip


def reference(kind: str, family: str) -> Any:
    most = TRAINED if kind == "dynamic" else 4 * TRAINED
    rope = {"rope_theta": 10000.0, **KINDS[kind]}
    more: dict[str, Any] = {"max_position_embeddings": most, "rope_parameters": rope}
    if family == "phi3":
        config: Any = transformers.Phi3Config(
            **SHAPE, **more, original_max_position_embeddings=TRAINED, attn_implementation="eager"
        )
        return transformers.Phi3ForCausalLM(config).eval()
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, **more)).eval()


def ours(model: Any, folder: Path) -> Decoder:
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    model.save_pretrained(folder)
    described = read_config(folder)
    config = language_config(described, "config.json")
    decoder = build_on_meta(config)
    load_state(decoder, open_checkpoint(folder), table(config, described["model_type"]), dtype=torch.float32)
    return decoder.eval()


@pytest.mark.parametrize("length", [TRAINED - 3, TRAINED + 20])
@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_and_magnitude_are_the_reference_s(kind: str, length: int) -> None:
    config = reference(kind, "llama").config
    wanted, factor = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, "cpu", seq_len=length)
    found = llama.decoder_config(config.to_dict()).rotary
    assert found is not None and abs(found.magnitude - factor) < 1e-6
    assert (found.frequencies(WIDTH, found.key(length)) - wanted).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("kind", "family"),  # Phi-3 as published has no other scaling
    [(kind, family) for kind in KINDS for family in ("llama", "phi3") if family == "llama" or "longrope" in kind],
)
@torch.inference_mode()
def test_logits_are_the_reference_s_within_and_beyond_the_original_context(
    kind: str, family: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = reference(kind, family)
    mine = ours(theirs, tmp_path)
    rows = []
    for length in (TRAINED - 4, TRAINED + 9):
        ids = torch.randint(2, 50, (1, length), generator=torch.Generator().manual_seed(length))
        rows.append((ids, mine.logits(mine(mine.embed_tokens(ids)))))
        assert (rows[-1][1] - theirs(ids).logits).abs().max() <= 1e-5, length
    # a row's frequencies are its own, whatever stands beside it
    (short, alone), (long, other) = rows
    width = long.shape[1]
    both = torch.cat((torch.nn.functional.pad(short, (width - short.shape[1], 0)), long))
    attend = torch.stack([torch.arange(width) >= width - short.shape[1], torch.ones(width, dtype=torch.bool)])
    found = mine.logits(mine(mine.embed_tokens(both), attend=attend, positions=(attend.cumsum(1) - 1).clamp(min=0)))
    assert (found[0, -short.shape[1] :] - alone[0]).abs().max() <= 1e-5
    assert (found[1] - other[0]).abs().max() <= 1e-5
    # a cached sequence goes on with the frequencies of its prompt, other rows dropped or not
    cache = mine.new_cache(2, width + 1)
    positions = (attend.cumsum(1) - 1).clamp(min=0)
    mine(mine.embed_tokens(both), attend=attend, positions=positions, cache=cache)
    cache.select(torch.tensor([1]))
    step = mine.logits(mine(mine.embed_tokens(torch.tensor([[7]])), positions=torch.tensor([[width]]), cache=cache))
    if "dynamic" not in kind:  # there every length has a base of its own
        whole = torch.cat((long, torch.tensor([[7]])), 1)
        assert (step[0, -1] - mine.logits(mine(mine.embed_tokens(whole)))[0, -1]).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_both_spellings_read_alike_and_configs_come_back(kind: str) -> None:
    new = reference(kind, "llama").config.to_dict()
    rope = dict(new["rope_parameters"])
    old = {key: value for key, value in new.items() if key != "rope_parameters"}
    rope.pop("rope_theta")
    name = rope.pop("rope_type")
    spelled = {**rope, "type": "su" if name == "longrope" else name}
    if name == "longrope":  # as in Phi-3's own files
        old["original_max_position_embeddings"] = spelled.pop("original_max_position_embeddings")
    read = llama.decoder_config(new)
    assert llama.decoder_config({**old, "rope_theta": 10000.0, "rope_scaling": spelled}) == read
    assert llama.decoder_config(llama.decoder_dict(read)) == read
    if "longrope" in kind:
        assert phi3.decoder_config(phi3.decoder_dict(read)) == read
    if name in ("linear", "dynamic"):
        assert internlm2.decoder_config(internlm2.decoder_dict(read)) == read


def test_scaling_that_isn_t_understood_is_refused() -> None:
    plain = reference("linear", "llama").config.to_dict()
    for rope, code in (
        ({"rope_type": "spiral"}, "rope_unknown"),
        ({"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG[:-1]}, "rope_factors"),
        ({"rope_type": "longrope", "short_factor": SHORT, "long_factor": ["x"]}, "rope_factors"),
        ({"rope_type": "longrope", "short_factor": SHORT}, "rope_factors"),
        ({"rope_type": "longrope", "short_factor": SHORT * 2, "long_factor": LONG * 2}, "rope_factors"),
    ):
        with pytest.raises(ConfigError) as caught:
            llama.decoder_config({**plain, "rope_parameters": rope})
        assert caught.value.code == code


@torch.inference_mode()
def test_m_rope_takes_yarn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rope = {**KINDS["yarn"], "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
    text = {**SHAPE, "max_position_embeddings": TRAINED, "rope_parameters": rope}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 4 * WIDTH, "num_heads": 2, "mlp_ratio": 2}
    theirs = transformers.Qwen2VLForConditionalGeneration(
        transformers.Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=2, video_token_id=3)
    ).eval()
    described = theirs.config.to_dict()
    config = qwen2_vl.language_config(described)
    assert config.context_length == 4 * TRAINED and config.rotary is not None and config.rotary.magnitude > 1
    again = qwen2_vl.language_config({**described, "text_config": qwen2_vl.language_dict(config, "qwen2_vl_text")})
    assert again == config
    decoder = config.build().eval()
    state = {name.removeprefix("model.language_model."): tensor for name, tensor in theirs.state_dict().items()}
    rules = Table(llama.decoder_rules(config))
    ready = {
        name if name.startswith("lm_head") else f"model.{name}": t for name, t in state.items() if "visual" not in name
    }
    decoder.load_state_dict(rules.to_ours(ready))
    ids = torch.randint(5, 50, (1, TRAINED + 9))
    places = torch.arange(TRAINED + 9).expand(3, 1, -1)
    mine = decoder.logits(decoder(decoder.embed_tokens(ids), positions=places))
    assert (mine - theirs(input_ids=ids, position_ids=places).logits).abs().max() <= 1e-5
