"""CoCa against OpenCLIP, both kinds of pooling: vectors, logits, both losses, gradients; and greedy captions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tests.parity.agreement import ATOL
from tests.parity.reference import run_reference
from tests.parity.test_families import picture

import chiasm
from chiasm.models.coca import tiny, tower
from chiasm.objectives.fusion import ContrastAndCaption
from chiasm.weights.files import write_json
from chiasm.weights.layouts import open_clip_coca as layout
from chiasm.weights.load import initialise

SCRIPT = """
import json
from open_clip.coca_model import CoCa
from open_clip.loss import CoCaLoss
model = CoCa(**json.loads(CONFIG)).eval()
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim:
            parameter.copy_((parameter.ndim == 1) + 0.2 * torch.randn(parameter.shape, generator=generator))
weights = {"w." + name: value.clone() for name, value in model.state_dict().items()}
out = model(inputs["pixels"], inputs["ids"])
features = {name: out[name].flatten(1) for name in ("image_features", "text_features")}
contrast, caption = CoCaLoss(2.0, 1.0, pad_id=0)(*features.values(), out["logits"], out["labels"], out["logit_scale"])
(contrast + caption).backward()
ids = inputs["ids"][:1, :1]
for _ in range(6):
    ids = torch.cat((ids, model(inputs["pixels"][:1], ids, output_labels=False)["logits"][:, -1:].argmax(-1)), 1)
outputs = {
    **weights, **features, "logits": out["logits"], "contrast": contrast, "caption": caption, "written": ids,
    **{"g." + name: p.grad for name, p in model.named_parameters()},
}
"""


@pytest.fixture(scope="module", params=["one pooler", "cascade"])
def pair(request, tmp_path_factory):
    config, processor = tiny()
    if request.param == "cascade":
        config = replace(config, cascade=True, vision=tower(32, 8, 32, 2, 2, 64, norm_post=True))
    folder = tmp_path_factory.mktemp("coca")
    pictures = processor.images([picture(seed, 40, 30) for seed in range(3)])
    texts = processor.texts(["a red cat", "two dogs and a yellow ball", "a"])
    size = config.language.context_length
    padded = torch.nn.functional.pad(texts.input_ids.masked_fill(~texts.attention_mask, 0), (0, size)).narrow(
        1, 0, size
    )
    described = layout.config_to(config)
    script = SCRIPT.replace("CONFIG", repr(json.dumps({**described["model_cfg"]})).replace(', "custom_text": true', ""))
    theirs = run_reference(script, {"pixels": pictures.pixel_values, "ids": padded}, folder)
    assert layout.config_from(described) == config
    from chiasm.weights.checkpoint import save_state

    save_state(folder, {name[2:]: t for name, t in theirs.items() if name.startswith("w.")}, stem="open_clip_model")
    write_json(folder / "open_clip_config.json", described)
    processor.save(folder)
    model = chiasm.load(folder)
    assert model.config == config
    batch = replace(pictures, input_ids=texts.input_ids, attention_mask=texts.attention_mask)
    return model, theirs, batch, folder


def test_vectors_logits_losses_and_gradients_agree(pair) -> None:
    model, theirs, batch, _ = pair
    module = model.module
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    images, texts, logits = module.contrast_and_write(batch)
    assert (images - theirs["image_features"]).abs().max() <= ATOL
    assert (texts - theirs["text_features"]).abs().max() <= ATOL
    real = batch.attention_mask[:, 1:]
    expected = theirs["logits"][:, : real.shape[1]]
    assert ((logits[:, :-1] - expected)[real]).abs().max() <= 5 * ATOL  # logits of the order of ten
    scalars = ContrastAndCaption().build()(module, batch)
    assert abs(scalars["contrast"] - theirs["contrast"]) <= ATOL
    assert abs(2 * scalars["caption"] - theirs["caption"]) <= ATOL
    scalars["loss"].backward()
    grads = {name: p.grad for name, p in module.named_parameters()}
    for name, gradient in layout.table(model.config).to_theirs(grads).items():
        other = theirs["g." + name]
        assert (gradient - other).abs().max() <= ATOL * max(1.0, other.abs().max().item()), name


def test_captions_are_the_reference_s_greedy_ones(pair) -> None:
    model, theirs, _, _ = pair
    reply = model.generate([[{"role": "user", "content": [{"type": "image", "image": picture(0, 40, 30)}]}]],
                           max_new_tokens=6)[0]  # fmt: skip
    expected = theirs["written"][0, 1:].tolist()
    end = model.processor.end_id
    assert list(reply.token_ids) == expected[: expected.index(end) if end in expected else None]


def test_the_layout_goes_both_ways(pair, tmp_path) -> None:
    model, theirs, _, _ = pair
    model.save(tmp_path / "again")
    again = chiasm.load(tmp_path / "again")
    assert again.config == model.config
    written = layout.table(model.config).to_theirs(again.module.state_dict())
    assert {"w." + name for name in written} == {name for name in theirs if name.startswith("w.")}
    assert all(torch.equal(tensor, theirs["w." + name]) for name, tensor in written.items())


def test_one_pass_equals_two(pair) -> None:
    """The logits of the pass that contrasts are those of captioning alone."""
    model, _, batch, _ = pair
    with torch.no_grad():
        both = model.module.contrast_and_write(batch)[2]
        alone = model.module(batch)
    assert (both - alone)[batch.attention_mask].abs().max() <= ATOL * 10
    assert initialise(model.config) is not None
