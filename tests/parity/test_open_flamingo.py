"""The whole OpenFlamingo wrapper and NFNets against their packages: logits, gradients, greedy and beam tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from tests.parity.reference import run_reference

import chiasm
from chiasm.fusion.gated_cross_attention import GatesConfig
from chiasm.models import flamingo
from chiasm.models.flamingo import FlamingoConfig
from chiasm.models.languages import mpt
from chiasm.models.model import Model
from chiasm.vision.nfnet import NFNetConfig, nf_resnet50, nfnet_f6
from chiasm.vision.patches import FinalStates
from chiasm.weights.layouts import open_clip
from chiasm.weights.layouts.languages import language_rules
from chiasm.weights.layouts.nfnet import RULES
from chiasm.weights.layouts.open_flamingo import is_trained, load_trained, trained_state, trained_table
from chiasm.weights.load import initialise
from chiasm.weights.rules import prefixed
from chiasm.weights.table import Table

ATOL = 1e-5
STEPS = 8
BUILD = """
import open_clip
from open_clip.transformer import VisionTransformer
from open_flamingo.src.flamingo import Flamingo
from open_flamingo.src.flamingo_lm import FlamingoLMMixin
from open_flamingo.src.utils import extend_instance
from transformers import MptConfig, MptForCausalLM
from torch import nn

# today's transformers leaves a mask of ones out; the mixin asks for it by position
plain = FlamingoLMMixin.forward
FlamingoLMMixin.forward = lambda self, input_ids=None, attention_mask=None, **more: plain(
    self, input_ids, attention_mask, **more
)
slot, end, vocab = inputs.pop("ids").tolist()
tower = nn.Module()
tower.visual = VisionTransformer(
    image_size=32, patch_size=8, width=32, layers=2, heads=2, mlp_ratio=2.0, output_dim=16, output_tokens=True,
    act_layer=open_clip.transformer.QuickGELU,
)
language = MptForCausalLM(MptConfig(vocab_size=vocab, d_model=48, n_layers=4, n_heads=4, max_seq_len=512))
extend_instance(language, FlamingoLMMixin)
language.set_decoder_layers_attr_name("transformer.blocks")
model = Flamingo(tower, language, end, slot, vis_dim=32, cross_attn_every_n_layers=2).eval()
state = {name[2:]: value for name, value in inputs.items() if name.startswith("w:")}
if not state:
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        value.data.normal_(std=0.15)
        if value.ndim == 1 and name.endswith("weight"):
            value.data += 1.0
    outputs.update({"w:" + name: value for name, value in model.state_dict().items()})
else:
    print(model.load_state_dict(state, strict=False))
"""
RUN = """
model.requires_grad_(True)
pictures, ids = inputs["pictures"], inputs["input_ids"]
out = model(pictures, ids, attention_mask=torch.ones_like(ids), labels=inputs["labels"])
outputs["logits"], outputs["loss"] = out.logits, out.loss
out.loss.backward()
for name, value in model.named_parameters(remove_duplicate=False):
    if value.grad is not None:
        outputs["g:" + name] = value.grad
for beams in (1, 3):
    found = model.generate(
        pictures, ids, attention_mask=torch.ones_like(ids), num_beams=beams, max_new_tokens=8, do_sample=False,
        early_stopping=False, pad_token_id=0,
    )
    outputs[f"tokens{beams}"] = found[:, ids.shape[1]:]
"""


def configuration(tokenizer) -> FlamingoConfig:
    """Shapes of the reference: its gated layers always have 8 heads of 64, its resampler six layers."""
    base, _ = flamingo.tiny()
    return dataclasses.replace(
        base,
        connector=dataclasses.replace(
            base.connector, num_latents=64, num_layers=6, num_heads=8, head_dim=64, mlp_dim=128, max_frames=0
        ),
        gates=GatesConfig(every=2, first=1, num_heads=8, head_dim=64, mlp_dim=192),
        language=mpt(len(tokenizer), 48, 4, 4, context=512),
        reading=FinalStates(keep_class_token=False),  # what today's open_clip gives
    )


def whole_table(config: FlamingoConfig) -> Table:
    """The wrapper's frozen towers by their own layouts."""
    language = language_rules(config.language)
    inside = [
        rule
        for rule in prefixed(language, "lang_encoder.", "language.")
        if ".blocks." not in str(rule) and "embed_tokens" not in str(rule) and "lm_head" not in str(rule)
    ]
    blocks = [rule for rule in language if "blocks" in str(rule)]
    moved = [
        dataclasses.replace(
            rule,
            theirs="lang_encoder." + rule.theirs.replace("blocks.{i}.", "blocks.{i}.decoder_layer."),
            ours=tuple("language." + o for o in rule.ours) if isinstance(rule.ours, tuple) else "language." + rule.ours,
        )
        for rule in blocks
    ]
    vision = prefixed(open_clip.vit_rules(), "vision_encoder.", "vision.")
    return Table([*vision, *inside, *moved])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The reference's answers and our model with the reference's weights, loaded as its checkpoints are."""
    folder = tmp_path_factory.mktemp("flamingo")
    _, processor = flamingo.tiny()
    tokenizer = processor.tokenizer
    config = configuration(tokenizer)
    ids = torch.tensor([tokenizer.token_to_id("<image>"), tokenizer.token_to_id(flamingo.END), len(tokenizer)])
    state = {n[2:]: t for n, t in run_reference(BUILD, {"ids": ids}, folder).items() if n.startswith("w:")}
    module = initialise(config).eval()
    checkpoint = {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(("perceiver.", "lang_encoder.gated_cross_attn_layers."))
        or name == "lang_encoder.transformer.wte.weight"
    }
    assert load_trained(module, config, checkpoint) == sum(is_trained(name) for name in module.state_dict())
    doubled = ("perceiver.", "lang_encoder.gated_", "lang_encoder.old_", "lang_encoder.lm_head", "vision_encoder.proj")
    frozen = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(doubled) and ".gated_cross_attn_layer." not in name and "wte" not in name
    }
    module.load_state_dict(whole_table(config).to_ours(frozen), strict=False)
    model = Model(module, flamingo.processor(config, flamingo.Parts(tokenizer)), flamingo.FAMILY, config)
    return model, state, ids, folder, checkpoint


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def interleaved(reply: str | None = None) -> list[dict]:
    content = [{"type": "text", "text": "so "}]
    for seed, text in ((1, "a red cat"), (2, "two dogs"), (3, "")):
        content += [{"type": "image", "image": picture(seed)}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}] + ([{"role": "assistant", "content": reply}] if reply else [])


def reference_run(pair, batch) -> dict[str, torch.Tensor]:
    _, state, ids, folder, _ = pair
    given = {
        "ids": ids,
        **{f"w:{name}": tensor.clone() for name, tensor in state.items()},
        "pictures": batch.pixel_values[None, :, None],
        "input_ids": batch.input_ids,
        "labels": batch.input_ids.clone() if batch.labels is None else batch.labels,
    }
    return run_reference(BUILD + RUN, given, folder)


def test_logits_loss_gradients_and_tokens_agree(pair) -> None:
    model, *_ = pair
    talk = interleaved("the sea and a boat")
    batch = model.processor([talk], add_generation_prompt=False, supervise=True)
    expected = reference_run(pair, batch)
    module = model.module.requires_grad_(True)
    module.zero_grad()
    logits = module(batch)
    assert (logits - expected["logits"]).abs().max() <= ATOL
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100)
    assert abs(loss.item() - expected["loss"].item()) <= ATOL
    loss.backward()
    grads = {name: p.grad for name, p in module.named_parameters() if is_trained(name)}
    # the reference's tower runs without gradients, as ours does where it is frozen
    for name, grad in trained_table(model.config).to_theirs(grads).items():
        assert (grad - expected[f"g:{name}"]).abs().max() <= ATOL, name


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_agree(pair, beams) -> None:
    model, *_ = pair
    talk = interleaved()
    expected = reference_run(pair, model.processor([talk]))[f"tokens{beams}"][0].tolist()
    end = model.processor.end_ids[0]
    expected = expected[: expected.index(end)] if end in expected else expected
    model.processor.end_ids = (end,)
    assert list(model.generate([talk], max_new_tokens=STEPS, num_beams=beams)[0].token_ids) == expected


def test_the_trained_part_goes_both_ways(pair) -> None:
    model, *_, checkpoint = pair
    written = trained_state(model.module, model.config)
    assert sorted(written) == sorted(checkpoint)
    assert all(torch.equal(written[name], checkpoint[name]) for name in checkpoint)


PAPER = {  # billions: gated layers, resampler, whole (Alayrac et al. 2022, table 1)
    "flamingo_3b": (1.2, 0.194, 3.2),
    "flamingo_9b": (1.6, 0.194, 9.3),
    "flamingo_80b": (10.0, 0.194, 80.0),
}


@pytest.mark.parametrize("name", PAPER)
def test_counts_are_near_the_papers(name) -> None:
    with torch.device("meta"):
        module = flamingo.PRESETS[name].build()

    def billions(prefix: str) -> float:
        return sum(p.numel() for key, p in module.named_parameters() if key.startswith(prefix)) / 1e9

    gates, resampler, whole = PAPER[name]
    assert billions("gates.") == pytest.approx(gates, rel=0.2)
    assert billions("connector.") == pytest.approx(resampler, rel=0.2)
    assert billions("vision.") == pytest.approx(0.435, rel=0.03)
    # rotary positions save a matrix a layer; the 9B's 40 layers (table 4) hold more than its stated 7.1B
    assert billions("") == pytest.approx(whole, rel=0.15)


NFNET = """
import timm
from timm.models.nfnet import NormFreeNet, _dm_nfnet_cfg, _nfres_cfg
from dataclasses import replace
kind = "deep" if inputs["kind"].item() else "plain"
if kind == "deep":
    cfg = replace(_dm_nfnet_cfg(depths=(1, 2, 1, 1), channels=(32, 32, 64, 64)), stem_chs=32, group_size=16)
    cfg = replace(cfg, num_features=0)
else:
    cfg = _nfres_cfg(depths=(1, 2, 1, 1), channels=(32, 32, 64, 64))
    cfg = replace(cfg, stem_chs=16)
model = NormFreeNet(cfg, num_classes=0).eval()
torch.manual_seed(0)
for name, value in model.named_parameters():
    value.data.normal_(std=0.3)
    if name.endswith("gain"):
        value.data += 1.0
outputs.update({"w:" + name: value for name, value in model.state_dict().items()})
outputs["features"] = model.forward_features(inputs["pixels"])
"""


@pytest.mark.parametrize("deep", [True, False])
def test_networks_without_norms_agree_with_timm(deep, tmp_path) -> None:
    shape = {"image_size": 64, "depths": (1, 2, 1, 1), "channels": (32, 32, 64, 64), "deep_stem": deep}
    if deep:
        base = nfnet_f6(64)
        config = dataclasses.replace(base, **shape, stem_dim=32, group_size=16)
    else:
        config = dataclasses.replace(nf_resnet50(64), **shape, stem_dim=16)
    assert isinstance(config, NFNetConfig)
    pixels = torch.randn(2, 3, 70, 64)
    out = run_reference(NFNET, {"pixels": pixels, "kind": torch.tensor(int(deep))}, tmp_path)
    module = config.build()
    state = Table(RULES).to_ours({name[2:]: t for name, t in out.items() if name.startswith("w:")})
    module.load_state_dict(state)
    with torch.no_grad():
        features = module.features(pixels)
    assert features.shape == out["features"].shape
    assert (features - out["features"]).abs().max() <= ATOL * out["features"].abs().max()


def test_full_sizes_are_timms() -> None:
    """timm's own counts, less the last convolution and the classifier, which this tower hasn't."""
    with torch.device("meta"):
        deep = sum(p.numel() for p in nfnet_f6(320).build().parameters())
        plain = sum(p.numel() for p in nf_resnet50(224).build().parameters())
    assert round(deep / 1e6, 2) == 430.56 and round(plain / 1e6, 2) == 23.51


def test_the_miniature_is_of_the_family() -> None:
    assert chiasm.new("flamingo").family is flamingo.FAMILY
