"""VSE's towers against torchvision and packed recurrence, its similarities against loops, its files through convert."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest
import torch
from tests.parity.agreement import ATOL
from tests.parity.reference import run_reference
from tests.parity.test_families import picture
from tests.parity.test_presets import on_meta

import chiasm
from chiasm.language.recurrent import RecurrentConfig
from chiasm.models.vse import PRESETS, tiny
from chiasm.objectives.hinge import Hinge
from chiasm.vision.cnn import ResNetConfig, VggConfig
from chiasm.weights.convert import convert
from chiasm.weights.layouts import vse as layout
from chiasm.weights.load import initialise

SCRIPT = """
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import make_layers
resnet = ResNet(Bottleneck, [1, 2, 1, 1], num_classes=2).eval()
resnet.fc = torch.nn.Identity()
vgg = make_layers([8, "M", 16, 16, "M"]).eval()
for name, buffer in resnet.named_buffers():
    if name.endswith("running_var"):
        buffer.uniform_(0.5, 2.0)
outputs = {
    **{"r." + name: value for name, value in resnet.state_dict().items()},
    **{"v." + name: value for name, value in vgg.state_dict().items()},
    "resnet": resnet(inputs["pixels"]), "vgg": vgg(inputs["pixels"]),
}
"""


def test_cnns_agree_with_torchvision(tmp_path) -> None:
    pixels = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(0))
    theirs = run_reference(SCRIPT, {"pixels": pixels}, tmp_path)
    vgg = VggConfig(stages=((1, 8), (2, 16)), grid=2, hidden_dim=4).build()
    vgg.features.load_state_dict({name[2:]: t for name, t in theirs.items() if name.startswith("v.")})
    assert (vgg.features(pixels) - theirs["vgg"]).abs().max() <= ATOL
    resnet = ResNetConfig(layers=(1, 2, 1, 1)).build().eval()
    state = {name[2:]: t for name, t in theirs.items() if name.startswith("r.")}
    for stage in range(1, 5):
        state = {name.replace(f"layer{stage}.", f"stages.{stage - 1}."): t for name, t in state.items()}
    resnet.load_state_dict(state)
    assert (resnet(pixels) - theirs["resnet"]).abs().max() <= ATOL * max(1.0, theirs["resnet"].abs().max())


@pytest.mark.parametrize("lstm", [False, True])
def test_the_last_state_is_that_of_packed_recurrence(lstm) -> None:
    torch.manual_seed(0)
    shape = RecurrentConfig(vocab_size=20, context_length=9, embed_dim=5, hidden_dim=6, num_layers=2, lstm=lstm)
    module = shape.build()
    ids, lengths = torch.randint(0, 20, (3, 7)), torch.tensor([7, 2, 4])
    attend = torch.arange(7)[None] < lengths[:, None]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        module.token_embed(ids), lengths, batch_first=True, enforce_sorted=False
    )
    state = module.rnn(packed)[1]
    assert (module(ids, attend) - (state[0] if lstm else state)[-1]).abs().max() <= 1e-6


def test_order_similarity_is_the_papers() -> None:
    config, processor = tiny()
    module = initialise(replace(config, order=True))
    images = module.embed_images(processor.images([picture(i, 40, 30) for i in range(2)]).pixel_values)
    words = processor.texts(["a red cat", "two dogs", "a"])
    texts = module.embed_texts(words.input_ids, words.attention_mask)
    assert images.min() >= 0 and texts.min() >= 0
    scores = module.logits(images, texts)
    for i, v in enumerate(images):
        for j, s in enumerate(texts):
            violation = sum(max(0.0, (a - b).item()) ** 2 for a, b in zip(s, v, strict=True)) ** 0.5
            assert abs(scores[i, j].item() + violation) <= 1e-6
    scores.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("cnn", ["vgg", "resnet"])
def test_an_authors_checkpoint_converts_and_loads(cnn, tmp_path) -> None:
    config, processor = tiny()
    vision = replace(config.vision, image_size=224) if cnn == "vgg" else ResNetConfig(layers=(1, 2, 1, 1), width=4)
    config = replace(config, vision=vision, language=replace(config.language, context_length=layout.CONTEXT))
    module = initialise(config)
    theirs = layout.table(config).to_theirs(module.state_dict())
    parts = [{name[2:]: t for name, t in theirs.items() if name.startswith(f"{n}.")} for n in (0, 1)]
    (tmp_path / "source").mkdir()
    saved = {"epoch": 1, "model": parts, "best_rsum": 3.0, "opt": argparse.Namespace(margin=0.2), "Eiters": 5}
    torch.save(saved, tmp_path / "source" / "model_best.pth")
    processor.save(tmp_path / "source")
    assert "config.json" in convert(tmp_path / "source", tmp_path / "out").files
    loaded = chiasm.load(tmp_path / "out")
    assert loaded.config == config
    for name, tensor in module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor), name


def test_the_hinge_learns_to_rank() -> None:
    torch.manual_seed(0)
    model = chiasm.new("vse")
    batch = model.processor.images([picture(i, 40, 30) for i in range(4)])
    words = model.processor.texts(["a red cat", "two dogs", "the blue boat", "birds"])
    batch.input_ids, batch.attention_mask = words.input_ids, words.attention_mask
    objective, optimizer = Hinge(hardest=False).build(), torch.optim.Adam(model.module.parameters(), lr=1e-2)
    losses = []
    for step in range(1, 61):
        loss = objective(model.module, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(model.module, step)
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_published_sizes() -> None:
    """torchvision's VGG-19 and ResNet-152 without their last layers, in millions."""
    sizes = {"vsepp_vgg19": 139.57, "vsepp_resnet152": 58.14}
    for name, millions in sizes.items():
        module = on_meta(PRESETS[name].build)
        assert round(sum(p.numel() for p in module.vision.parameters()) / 1e6, 2) == millions
