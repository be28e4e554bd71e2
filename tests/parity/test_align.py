"""ALIGN against transformers: embeddings, similarities, loss, gradients, pictures; EfficientNet's published sizes."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.gallery import gallery
from tests.parity.agreement import ATOL, gradients_agree, loaded
from tests.parity.disturbed import disturb
from tests.parity.test_families import picture
from tests.parity.test_presets import on_meta

from chiasm.models.align import tiny
from chiasm.objectives.contrastive import info_nce
from chiasm.processing.image_processor import ImageProcessor
from chiasm.vision.efficientnet import EFFICIENTNET


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    torch.manual_seed(0)
    config, processor = tiny()
    text = {
        "vocab_size": len(processor.tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 64,
    }  # fmt: skip
    vision = {"width_coefficient": 0.25, "depth_coefficient": 0.4, "hidden_dim": 64, "image_size": 64}
    reference = disturb(
        transformers.AlignModel(
            transformers.AlignConfig(text_config=text, vision_config=vision, projection_dim=config.vision.output_dim)
        )
    )
    for name, buffer in reference.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            buffer.normal_(std=0.2)
    reference.temperature.data.fill_(0.3)
    folder = tmp_path_factory.mktemp("align")
    return reference, loaded(reference, processor, folder), folder


def test_embeddings_loss_and_gradients_agree(pair) -> None:
    reference, model, folder = pair
    pixels = model.processor.images([picture(seed, 70, 65) for seed in range(3)]).pixel_values[..., :63, :61]
    texts = model.processor.texts(["a red cat", "two dogs and a yellow ball", "a"])
    expected = reference(
        input_ids=texts.input_ids, attention_mask=texts.attention_mask, pixel_values=pixels, return_loss=True
    )
    images, said = model.module.embed_images(pixels), model.module.embed_texts(texts.input_ids, texts.attention_mask)
    assert (said - expected.text_embeds).abs().max() <= ATOL
    assert (images - expected.image_embeds).abs().max() <= ATOL
    assert (model.module.logits(images, said) - expected.logits_per_image).abs().max() <= ATOL
    loss = info_nce(images, said, model.module.logit_scale.exp(), smoothing=0.1)
    assert abs(loss - expected.loss) <= ATOL
    loss.backward(), expected.loss.backward()
    gradients_agree(reference, model, folder)


# Parameters of the published EfficientNets (Tan & Le 2019, table 2), in millions.
SIZES = {"b0": 5.3, "b1": 7.8, "b2": 9.1, "b3": 12.2, "b4": 19.3, "b5": 30.4, "b6": 43.0, "b7": 66.3}


@pytest.mark.parametrize("name", sorted(SIZES))
def test_efficientnets_are_as_large_as_published(name) -> None:
    module = on_meta(EFFICIENTNET[f"efficientnet_{name}"].build)
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(SIZES[name], abs=0.06)


@pytest.mark.parametrize("options", [{}, {"include_top": False, "do_center_crop": True}, {"rescale_offset": True},
                          {"do_normalize": False, "image_std": [0.5, 0.4, 0.3]}])  # fmt: skip
def test_pictures_agree_with_the_reference_s(options) -> None:
    from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

    theirs = EfficientNetImageProcessorPil(**options)
    ours = ImageProcessor.from_config({"image_processor_type": "EfficientNetImageProcessor", **options})
    for name, image in list(gallery().items())[::4]:
        expected = theirs(ours.read(image), return_tensors="pt")["pixel_values"]
        assert (ours.pixels([image])[0] - expected).abs().max() <= 2e-6, name
