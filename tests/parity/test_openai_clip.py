"""CLIP with its ResNet and its ViT against open_clip, in the layout that OpenAI published: tiny, random, fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.parity.reference import run_reference

from chiasm.models.assembly import clip_tower
from chiasm.models.clip import ClipConfig, tiny_resnet
from chiasm.objectives.contrastive import info_nce
from chiasm.weights.layouts import open_clip

SCRIPT = """
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
torch.manual_seed(0)
vision = CLIPVisionCfg({vision})
language = CLIPTextCfg(context_length=77, vocab_size={vocab}, width=32, heads=2, layers=2)
model = CLIP(16, vision, language, quick_gelu=True).eval()
with torch.no_grad():  # as built, the last norm of every bottleneck is zero and would hide what stands before it
    for name, value in model.named_parameters():
        if value.dim() <= 1 and name != "logit_scale":
            value.add_(0.1 * torch.randn_like(value))
        if name.endswith(("bn3.weight", "downsample.1.weight")):
            value.fill_(0.5).add_(0.1 * torch.randn_like(value))
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
images = model.encode_image(inputs["pixels"], normalize=True)
texts = model.encode_text(inputs["ids"], normalize=True)
logits = model.logit_scale.exp() * images @ texts.T
target = torch.arange(len(logits))
loss = (torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)) / 2
loss.backward()
outputs |= {{"images": images, "texts": texts, "logits": logits, "loss": loss[None]}}
outputs |= {{"weight." + name: value for name, value in model.state_dict().items()}}
outputs |= {{"grad." + name: value.grad for name, value in model.named_parameters()}}
"""

RESNET = "layers=[1, 2, 1, 1], width=16, head_width=128, image_size=64"
VIT = "layers=2, width=32, head_width=16, patch_size=8, image_size=32"


def tiny_vit() -> ClipConfig:
    language = tiny_resnet().language
    return ClipConfig(vision=clip_tower(32, 8, 32, 2, 2, 128), language=language, embed_dim=16)


@pytest.mark.parametrize(("vision", "config"), [(RESNET, tiny_resnet()), (VIT, tiny_vit())], ids=["resnet", "vit"])
def test_same_as_open_clip(vision: str, config: ClipConfig, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    vocab, size = config.language.vocab_size, config.vision.image_size
    pixels = torch.randn(5, 3, size, size, generator=generator)
    ids = torch.randint(1, vocab - 1, (5, 77), generator=generator)
    for row, end in enumerate((4, 9, 30, 76, 12)):  # the end of the text is the largest id; zeros pad after it
        ids[row, end], ids[row, end + 1 :] = vocab - 1, 0
    script = SCRIPT.format(vision=vision, vocab=vocab)
    theirs = run_reference(script, {"pixels": pixels, "ids": ids}, tmp_path)

    table = open_clip.table(config)
    weights = {name.removeprefix("weight."): value for name, value in theirs.items() if name.startswith("weight.")}
    model = config.build().eval()
    model.load_state_dict(table.to_ours(weights), strict=True)
    images, texts = model.embed_images(pixels), model.embed_texts(ids)
    logits = model.logits(images, texts)
    loss = info_nce(images, texts, model.logit_scale.exp())
    loss.backward()

    for name, ours in {"images": images, "texts": texts, "logits": logits, "loss": loss[None]}.items():
        torch.testing.assert_close(ours, theirs[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    # gradients and weights travel back through the same table, which proves it in the other direction too
    state = {name: value.grad if value.grad is not None else torch.zeros_like(value) for name, value in named(model)}
    back = table.to_theirs(state)
    for name, value in back.items():
        if "grad." + name in theirs:
            # rtol: the largest gradients are 3, and on some processors 3e-6 of themselves apart
            torch.testing.assert_close(
                value, theirs["grad." + name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"gradient of {n}: {m}"
            )
    assert {name for name in weights if "grad." + name in theirs} <= set(back)
    assert set(table.to_theirs(model.state_dict())) == set(weights)


def named(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers under the state dict's names."""
    return list(model.state_dict(keep_vars=True).items())
