"""InternVL-C and -G: the language model against transformers' LLaMA, queries and pooling against the paper's equations,
every published tensor's name and shape, both published layouts both ways."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from tests.parity.agreement import ATOL
from tests.parity.test_blip2 import picture
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import chiasm
from chiasm.models import internvl_g
from chiasm.objectives.querying import QueryingLosses
from chiasm.weights.checkpoint import save_state
from chiasm.weights.files import write_json
from chiasm.weights.layouts import layout_for, layout_of, recognised
from chiasm.weights.layouts import llama as llama_layout
from chiasm.weights.table import Table

TEXTS = ["a red cat", "two dogs on the grass", "sea"]


@pytest.fixture(scope="module")
def model():
    made = chiasm.new("internvl_g")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.module.parameters():  # no two tensors alike, no norm that does nothing
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


@pytest.fixture(scope="module")
def llama(model):
    """transformers' LLaMA with the same weights."""
    config = model.config.language
    stored = llama_layout.decoder_dict(config)
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(**stored, attn_implementation="eager")).eval()
    own = {
        name: tensor
        for name, tensor in model.module.language.state_dict().items()
        if "cross" not in name and "context" not in name and name != "queries"
    }
    reference.load_state_dict(Table(llama_layout.decoder_rules(config)).to_theirs(own))
    return reference


def equations(model, llama, picture, ids, attend, kind):
    """QLLaMA spelled out around transformers' attention and MLP: §3.2, and the published masks of §3.3."""
    language = model.module.language
    queries = language.queries.expand(len(picture), -1, -1)
    count, words = queries.shape[1], 0 if ids is None else ids.shape[1]
    x = queries if ids is None else torch.cat((queries, llama.model.embed_tokens(ids)), 1)
    mask = torch.zeros(len(x), 1, count + words, count + words)
    for row in range(len(x)):
        for q in range(count + words):
            for k in range(count + words):
                padded = k >= count and attend is not None and not attend[row, k - count]
                hidden = kind == "causal" and k > q and not (q < count and k < count)
                if (padded or hidden) and q != k:
                    mask[row, 0, q, k] = -1e9
    positions = LlamaRotaryEmbedding(llama.config)(x, torch.arange(count + words)[None])
    for number, layer in enumerate(llama.model.layers):
        x = x + layer.self_attn(layer.input_layernorm(x), position_embeddings=positions, attention_mask=mask)[0]
        if number % 2 == 0:
            block = language.blocks[number]
            asked, seen = block.cross_norm(x[:, :count]), block.context_norm(picture)
            attn, heads = block.cross_attn, model.config.language.num_heads
            q, k, v = (
                (states @ proj.weight.T).unflatten(-1, (heads, -1)).transpose(1, 2)
                for states, proj in ((asked, attn.q_proj), (seen, attn.k_proj), (seen, attn.v_proj))
            )
            weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
            looked = (weights @ v).transpose(1, 2).flatten(2) @ attn.o_proj.weight.T
            x = torch.cat((x[:, :count] + looked, x[:, count:]), 1)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    x = llama.model.norm(x)
    return x[:, :count], x[:, count:]


def pooled(pool, x):
    """The pooling by torch's own attention."""
    attn = pool.attn
    out, _ = F.multi_head_attention_forward(
        pool.norm_query(x.mean(1, keepdim=True)).transpose(0, 1),
        pool.norm_keys(x).transpose(0, 1),
        pool.norm_values(x).transpose(0, 1),
        x.shape[-1], attn.num_heads, None,
        torch.cat((attn.q_proj.bias, attn.k_proj.bias, attn.v_proj.bias)), None, None, False, 0.0,
        torch.eye(x.shape[-1]), torch.zeros(x.shape[-1]), training=False, need_weights=False,
        use_separate_proj_weight=True, q_proj_weight=attn.q_proj.weight, k_proj_weight=attn.k_proj.weight,
        v_proj_weight=attn.v_proj.weight,
    )  # fmt: skip
    return attn.o_proj(out.transpose(0, 1))[:, 0]


@pytest.mark.parametrize("kind", ["joint", "causal"])
def test_queries_and_text_share_the_language_model(model, llama, kind) -> None:
    batch = model.processor.pairs([picture(seed) for seed in range(3)], TEXTS)
    features = model.module.visual_features(batch.pixel_values)
    ids, attend = batch.input_ids, batch.attention_mask
    assert not bool(attend.all())
    with torch.no_grad():
        ours = model.module.language.states(features, ids, attend, kind=kind)
        theirs = equations(model, llama, features, ids, attend, kind)
        alone = model.module.language.states(features)[0]
        wanted = equations(model, llama, features, None, None, kind)[0]
    assert (ours[0] - theirs[0]).abs().max() <= ATOL
    assert (ours[1] - theirs[1])[attend].abs().max() <= ATOL
    assert (alone - wanted).abs().max() <= ATOL


def test_vectors_matching_and_captions_are_the_papers(model, llama) -> None:
    module, pictures = model.module, [picture(seed) for seed in range(3)]
    batch = model.processor.pairs(pictures, TEXTS)
    with torch.no_grad():
        features = module.visual_features(batch.pixel_values)
        queries = equations(model, llama, features, None, None, "joint")[0]
        own, asked = pooled(module.pool, features), pooled(module.query_pool, queries)
        images = F.normalize(F.normalize(own, dim=-1) + F.normalize(asked, dim=-1), dim=-1)
        ids, attend = batch.instruction_ids, batch.instruction_mask
        states = llama.model(input_ids=ids, attention_mask=attend.long()).last_hidden_state
        last = states[torch.arange(3), attend.sum(1) - 1]
        texts = F.normalize(last @ module.text_proj.weight.T, dim=-1)
        assert (model.similarity(pictures, TEXTS) - module.logit_scale.exp() * images @ texts.T).abs().max() <= 1e-4
        joint, _ = equations(model, llama, features, batch.input_ids, batch.attention_mask, "joint")
        matched = module.match_head(joint).mean(1).softmax(-1)[:, 1]
        assert (model.match(pictures, TEXTS) - matched).abs().max() <= ATOL
        _, words = equations(model, llama, features, batch.input_ids, batch.attention_mask, "causal")
        ours = module.caption_logits(features, batch.input_ids, batch.attention_mask)
        assert (ours - llama.lm_head(words))[batch.attention_mask].abs().max() <= 1e-4


def test_texts_are_embedded_as_summaries_and_matched_as_they_are(model) -> None:
    tokenizer, batch = model.processor.tokenizer, model.processor.pairs([picture(1)], ["a red cat"])
    summary, plain = batch.instruction_ids[0].tolist(), batch.input_ids[0].tolist()
    before = list(tokenizer.wrapping[0])
    assert summary == [*before, *tokenizer.encode("summarize:a red cat"), tokenizer.eos_id]
    assert plain == [*before, *tokenizer.encode("a red cat"), tokenizer.eos_id]
    assert model.processor.texts(["a red cat"]).input_ids[0].tolist() == summary


def test_the_three_losses_train_what_the_second_stage_trains(model) -> None:
    module, objective = model.module, QueryingLosses(smoothing=0.0).build()
    for name, parameter in module.named_parameters():
        trained = name.startswith(("query_pool.", "match_head.")) or any(
            part in name for part in ("queries", "cross_", "context_norm", "logit_scale")
        )
        parameter.requires_grad_(trained)
    losses = objective(module, model.processor.pairs([picture(seed) for seed in range(3)], TEXTS))
    losses["loss"].backward()
    grads = {name: p.grad is not None for name, p in module.named_parameters()}
    assert all(grads[name] == p.requires_grad for name, p in module.named_parameters())
    module.zero_grad()
    module.requires_grad_(True)


def names_14b() -> set[str]:
    """Every tensor of the published checkpoint, from its code."""
    names = {"query_tokens", "text_projection", "logit_scale", "itm_head.weight", "itm_head.bias"}
    for pool in ("clip_projector", "clip_projector2"):
        names |= {f"{pool}.norm1_{n}.{p}" for n in "qkv" for p in ("weight", "bias")}
        names |= {f"{pool}.cross_attn.{n}" for n in ("q.weight", "k.weight", "v.weight", "q_bias", "k_bias", "v_bias")}
        names |= {f"{pool}.cross_attn.proj.{p}" for p in ("weight", "bias")}
    embeddings = ("class_embedding", "position_embedding", "patch_embedding.weight", "patch_embedding.bias")
    names |= {f"vision_model.embeddings.{n}" for n in embeddings}
    layer = ("attn.qkv.weight", "attn.q_norm.weight", "attn.k_norm.weight", "attn.proj.weight", "attn.proj.bias",
             "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias", "norm1.weight", "norm2.weight", "ls1",
             "ls2")  # fmt: skip
    names |= {f"vision_model.encoder.layers.{i}.{n}" for i in range(48) for n in layer}
    names |= {"qllama.model.embed_tokens.weight", "qllama.model.norm.weight", "qllama.lm_head.weight"}
    for i in range(32):
        own = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
        own += ["input_layernorm", "post_attention_layernorm"]
        if i % 2 == 0:
            own += [f"cross_attn.{n}" for n in ("q_proj", "k_proj", "v_proj", "o_proj", "norm1", "norm2")]
        names |= {f"qllama.model.layers.{i}.{n}.weight" for n in own}
    return names


def test_the_published_size_has_every_published_tensor() -> None:
    config = internvl_g.G_PRESETS["internvl_g_14b"]
    with torch.device("meta"):
        module = config.build()
    stored = json.loads(json.dumps(layout_of(config).config_to(config)))
    assert layout_for(stored).name == "internvl_g" and layout_for(stored).config_from(stored) == config
    theirs = layout_of(config).table(config).to_theirs(module.state_dict())
    assert set(theirs) == names_14b()
    assert theirs["query_tokens"].shape == (1, 96, 4096) and theirs["text_projection"].shape == (4096, 768)
    assert theirs["vision_model.encoder.layers.0.attn.qkv.weight"].shape == (9600, 3200)
    assert theirs["qllama.model.layers.30.cross_attn.k_proj.weight"].shape == (4096, 3200)
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in module.named_children()}
    assert round(millions["vision"]) == 5903  # table 1
    assert round(sum(millions.values()) / 1e3) == 14  # table 3


def test_the_first_stages_checkpoint_is_recognised(tmp_path) -> None:
    made = chiasm.new("internvl_c")
    state = layout_of(made.config).table(made.config).to_theirs(made.module.state_dict())
    config = recognised({name: tuple(tensor.shape) for name, tensor in state.items()})
    assert config is not None
    save_state(tmp_path / "out", state)
    write_json(tmp_path / "out" / "config.json", config)
    made.processor.save(tmp_path / "out")
    again = chiasm.load(tmp_path / "out")
    assert again.config.language.num_heads == 1  # heads are 128 wide in the published one
    for name, tensor in made.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name


def test_the_same_files_without_queries_are_the_first_stage(model, tmp_path) -> None:
    model.save(tmp_path / "one")
    stored = json.loads((tmp_path / "one" / "config.json").read_text())
    (tmp_path / "one" / "config.json").write_text(json.dumps({**stored, "embedding": "InternVL-C"}))
    plain = chiasm.load(tmp_path / "one")
    with torch.no_grad():
        pixels = model.processor.images([picture(5)]).pixel_values
        own = F.normalize(pooled(model.module.pool, model.module.visual_features(pixels)), dim=-1)
    assert (plain.embed_images(picture(5)) - own).abs().max() <= ATOL
    assert (plain.embed_images(picture(5)) - model.embed_images(picture(5))).abs().max() > 1e-3
