"""Language models on their own against transformers: logits, loss, gradients, greedy and beam tokens, both directions.

Each reference is a random miniature that transformers saves and we load; what we write loads there again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from chiasm.core.batch import Batch
from chiasm.fusion.seq2seq import SplicedSeq2Seq
from chiasm.fusion.splice import SplicedLM
from chiasm.generation.decoding import generate
from chiasm.generation.limits import Limits
from chiasm.generation.sampling import Sampling
from chiasm.language.encoder_decoder import EncoderDecoderConfig
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.weights.checkpoint import load_state, open_checkpoint, read_config, save_state
from chiasm.weights.files import write_json
from chiasm.weights.layouts.languages import language, language_config, language_of, table
from chiasm.weights.meta import build_on_meta

ATOL = 1e-5
TOKENIZER = tiny_tokenizer("chatml")
VOCAB, EOS = len(TOKENIZER), TOKENIZER.eos_id
IDS = {"bos_token_id": None, "eos_token_id": EOS, "pad_token_id": None}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
T5 |= {"vocab_size": VOCAB, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
T5 |= {"eos_token_id": EOS, "pad_token_id": 0, "decoder_start_token_id": 0}


def opt() -> Any:
    shape = {"hidden_size": 48, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.OPTConfig(vocab_size=VOCAB, max_position_embeddings=64, **shape, **{**IDS, "pad_token_id": 1})
    return transformers.OPTForCausalLM(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=48, n_layer=2, n_head=4, **IDS)
    return transformers.GPT2LMHeadModel(config)


def mpt() -> Any:  # six heads: the slopes of a number that is no power of two
    config = transformers.MptConfig(
        vocab_size=VOCAB, d_model=48, n_layers=2, n_heads=6, max_seq_len=64, eos_token_id=EOS
    )
    return transformers.MptForCausalLM(config)


def phi3() -> Any:
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.Phi3Config(vocab_size=VOCAB, num_key_value_heads=2, **shape, **IDS)
    return transformers.Phi3ForCausalLM(config)


def llama() -> Any:
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=VOCAB, num_key_value_heads=2, **shape, **IDS)
    return transformers.LlamaForCausalLM(config)


def qwen3() -> Any:  # heads wider than their share of the width, as published
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.Qwen3Config(vocab_size=VOCAB, num_key_value_heads=2, head_dim=16, **shape, **IDS)
    return transformers.Qwen3ForCausalLM(config)


def t5() -> Any:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(feed_forward_proj="relu", **T5))


def flan_t5() -> Any:
    config = transformers.T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **T5)
    return transformers.T5ForConditionalGeneration(config)


def mt5() -> Any:
    return transformers.MT5ForConditionalGeneration(transformers.MT5Config(**T5))


REFERENCES: dict[str, Callable[[], Any]] = {
    "opt": opt, "gpt2": gpt2, "mpt": mpt, "phi3": phi3, "llama": llama, "qwen3": qwen3, "t5": t5,
    "flan_t5": flan_t5, "mt5": mt5,
}  # fmt: skip


class TextOnly(SplicedLM):
    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        raise AssertionError("no pictures here")


class TextOnlySeq2Seq(SplicedSeq2Seq):
    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        raise AssertionError("no pictures here")


@pytest.fixture(scope="module", params=REFERENCES)
def pair(request, tmp_path_factory):
    """Name, reference, our module around our language model, its table, the reference's folder."""
    torch.manual_seed(0)
    reference = REFERENCES[request.param]().eval()
    for parameter in reference.parameters():  # no two tensors alike, and none that a swap wouldn't show
        parameter.data.normal_(std=0.15).add_(1.0 if parameter.ndim == 1 else 0.0)
    folder = tmp_path_factory.mktemp(request.param)
    reference.save_pretrained(folder)
    described = read_config(folder)
    config = language_config(described, "config.json")
    rules = table(config, described["model_type"])
    ours = build_on_meta(config)
    load_state(ours, open_checkpoint(folder), rules, dtype=torch.float32)
    kind = TextOnlySeq2Seq if isinstance(config, EncoderDecoderConfig) else TextOnly
    return request.param, reference, kind(torch.nn.Identity(), torch.nn.Identity(), ours).eval(), rules, folder


def ids(seed: int, length: int) -> torch.Tensor:
    return torch.randint(5, VOCAB - 5, (1, length), generator=torch.Generator().manual_seed(seed))


def test_logits_loss_and_gradients_agree(pair) -> None:
    _, reference, module, rules, _ = pair
    prompt, reply = ids(1, 19), ids(2, 7)
    reference.zero_grad(), module.zero_grad()
    if isinstance(module, SplicedSeq2Seq):
        labels = torch.cat((torch.full_like(prompt, -100), reply), 1)
        expected = reference(input_ids=prompt, labels=reply)
        batch = Batch(input_ids=torch.cat((prompt, reply), 1), labels=labels)
        wanted = expected.logits
    else:
        labels = torch.cat((prompt, reply), 1)
        batch = Batch(input_ids=labels, labels=labels)
        expected = reference(input_ids=labels, labels=labels)
        wanted = expected.logits[:, -8:-1]
    logits = module(batch)
    assert (logits[:, -8:-1] - wanted).abs().max() <= ATOL
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
    assert abs(loss.item() - expected.loss.item()) <= ATOL
    loss.backward(), expected.loss.backward()
    state = {name: tensor.grad for name, tensor in module.language.named_parameters()}
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    compared = 0
    for name, grad in rules.to_theirs({n: torch.zeros(1) if g is None else g for n, g in state.items()}).items():
        other = theirs[name] if name in theirs else theirs[name.replace("lm_head", "shared")]
        if other is not None:
            assert (grad - other).abs().max() <= ATOL, name
            compared += 1
    assert compared == sum(grad is not None for grad in theirs.values())


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_agree_and_a_padded_batch_equals_its_members(pair, beams) -> None:
    _, reference, module, _, _ = pair
    prompts = [ids(seed, 4 + 3 * seed % 11) for seed in range(6)]
    most = max(prompt.shape[1] for prompt in prompts)
    rows = torch.cat([torch.nn.functional.pad(p, (most - p.shape[1], 0)) for p in prompts])
    mask = torch.stack([torch.arange(most) >= most - p.shape[1] for p in prompts])
    limits = Limits(max_new_tokens=10, eos_ids=frozenset([EOS]))
    together = generate(
        module, Batch(input_ids=rows, attention_mask=mask, source_length=most), TOKENIZER, limits, Sampling(), beams
    )
    for prompt, reply in zip(prompts, together, strict=True):
        options = {"max_new_tokens": 10, "do_sample": False, "num_beams": beams, "early_stopping": False}
        found = reference.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **options)
        new = found[0, 1:] if isinstance(module, SplicedSeq2Seq) else found[0, prompt.shape[1] :]
        expected = new.tolist()
        expected = expected[: expected.index(EOS)] if EOS in expected else expected
        assert list(reply.token_ids) == expected


def test_cached_decoding_equals_full_forward_passes(pair) -> None:
    _, _, module, _, _ = pair
    prompt, reply = ids(3, 9), ids(4, 5)
    with torch.no_grad():
        logits, state = module.prefill(Batch(input_ids=prompt), 14)
        steps = [logits, *(module.decode(token, state) for token in reply[0, :, None])]
        full = module(Batch(input_ids=torch.cat((prompt, reply), 1), source_length=9))[:, -6:]
    assert (torch.stack(steps, 1) - full).abs().max() <= ATOL


def test_configs_and_weights_go_both_ways(pair, tmp_path) -> None:
    name, reference, module, rules, folder = pair
    described = read_config(folder)
    config = module.language.config
    form = language(described["model_type"])
    written = form.write(config)
    assert form.read(json.loads(json.dumps(written)), "config.json") == config
    assert language_config(language_of(config).write(config), "config.json") == config
    theirs, original = rules.to_theirs(module.language.state_dict()), load_file(folder / "model.safetensors")
    # mt5 ties its output, too, and files may hold it
    assert sorted(theirs) == sorted(original)
    assert all(torch.equal(theirs[key], original[key]) for key in original)
    save_state(tmp_path, theirs)
    write_json(tmp_path / "config.json", written)
    kind = getattr(transformers, written["architectures"][0])
    loaded, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    if name != "mt5":
        inputs = {"input_ids": ids(5, 8), "labels": ids(6, 8)}
        with torch.no_grad():
            assert torch.equal(loaded.eval()(**inputs).logits, reference(**inputs).logits)
