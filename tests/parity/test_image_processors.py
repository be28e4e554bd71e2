"""Image tensors against transformers' PIL processors: the same picture, the same bits."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tests.gallery import exif_rotated, gallery, rgb
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from chiasm.processing.image_processor import ImageProcessor

REFERENCES = {
    "CLIPImageProcessor": CLIPImageProcessorPil,
    "SiglipImageProcessor": SiglipImageProcessorPil,
    "LlavaImageProcessor": LlavaImageProcessorPil,
    "LlavaNextImageProcessor": LlavaNextImageProcessorPil,
}
# Published forms: sparse, old spellings, exact sizes, no scaling, other filters.
SETTINGS: dict[str, dict[str, Any]] = {
    "clip": {"image_processor_type": "CLIPImageProcessor"},
    "clip-old": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 64, "crop_size": 64, "resample": 3},
    "clip-odd-crop": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 80},
        "crop_size": {"height": 65, "width": 90},
        "resample": 2,
    },
    "clip-exact": {"image_processor_type": "CLIPImageProcessor", "size": {"height": 70, "width": 50}, "crop_size": 48},
    "clip-unscaled": {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "crop_size": 97},
    "clip-raw": {"image_processor_type": "CLIPImageProcessor", "do_normalize": False, "image_mean": 0.5},
    "clip-levels": {"image_processor_type": "CLIPImageProcessor", "do_rescale": False, "resample": 1},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "do_center_crop": None},
    "siglip-384": {"image_processor_type": "SiglipImageProcessorFast", "size": {"height": 384, "width": 384}},
    "llava": {"image_processor_type": "LlavaImageProcessor", "size": 336, "crop_size": 336},
    "llava-pad": {
        "image_processor_type": "LlavaImageProcessor",
        "size": {"shortest_edge": 336},
        "crop_size": {"height": 336, "width": 336},
        "do_pad": True,
    },
    "llava-next": {
        "image_processor_type": "LlavaNextImageProcessor",
        "aspect_ratio_setting": "anyres",
        "size": {"shortest_edge": 336},
        "crop_size": {"height": 336, "width": 336},
    },
    "llava-next-small": {
        "image_processor_type": "LlavaNextImageProcessor",
        "size": 48,
        "crop_size": 48,
        "image_grid_pinpoints": [[48, 48], [48, 144], [192, 48], [96, 96]],
        "resample": 2,
    },
}
FIXED = [name for name in SETTINGS if name != "clip-odd-crop"]


def reference(settings: dict[str, Any]) -> Any:
    named = settings.get("image_processor_type") or settings["feature_extractor_type"]
    kind = named.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    return REFERENCES[kind].from_dict(dict(settings))


def expected(oracle: Any, picture: Image.Image) -> np.ndarray:
    pixels = oracle(picture, return_tensors="np")["pixel_values"]
    return pixels[0] if pixels.ndim == 5 else pixels


@pytest.fixture(scope="module")
def pictures() -> dict[str, Image.Image]:
    return gallery()


@pytest.mark.parametrize("name", SETTINGS)
def test_tensors_equal_the_reference_to_the_bit(name: str, pictures: dict[str, Image.Image]) -> None:
    ours, oracle = ImageProcessor.from_config(SETTINGS[name]), reference(SETTINGS[name])
    assert len(pictures) >= 40
    for label, picture in pictures.items():
        pixels, plans = ours.pixels([picture])
        wanted = expected(oracle, picture)
        assert pixels.shape == wanted.shape, label
        assert np.array_equal(pixels.numpy(), wanted), (label, np.abs(pixels.numpy() - wanted).max())
        assert [crop.size for crop in plans[0].crops] == [wanted.shape[:1:-1]] * len(wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_what_the_reference_sees_once_upright(orientation: int) -> None:
    data = exif_rotated(orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    pixels, _ = ImageProcessor.from_config(SETTINGS["clip"]).pixels([data])
    assert np.array_equal(pixels.numpy(), expected(reference(SETTINGS["clip"]), upright))


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_written_here_are_read_there(name: str) -> None:
    ours = ImageProcessor.from_config(SETTINGS[name])
    written = json.loads(json.dumps(ours.to_config()))
    assert ImageProcessor.from_config(written) == ours
    assert ImageProcessor.from_config({"image_processor": written, "processor_class": "X", "patch_size": 14}) == ours
    picture = rgb(201, 143)
    assert np.array_equal(expected(reference(written), picture), ours.pixels([picture])[0].numpy())


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_written_there_are_read_here(name: str) -> None:
    oracle = reference(SETTINGS[name])
    assert ImageProcessor.from_config(json.loads(oracle.to_json_string())) == ImageProcessor.from_config(SETTINGS[name])


def sizes() -> Iterator[tuple[int, int]]:
    random = np.random.default_rng(7)
    yield from [(1, 1), (1, 5000), (5000, 1), (5000, 200), (336, 336), (672, 672), (3840, 2160), (5000, 5000)]
    for _ in range(192):
        width, height = np.exp(random.uniform(0, np.log(5000), 2)).astype(int)
        yield max(1, int(width)), max(1, int(height))


class _Counter(LlavaNextProcessor):
    """Only the arithmetic of the reference's processor, which needs no tokenizer."""

    def __init__(self, image_processor: Any, patch_size: int) -> None:
        self.image_processor, self.patch_size, self.num_additional_image_tokens = image_processor, patch_size, 1


@pytest.mark.parametrize(("name", "side", "patch"), [("llava-next", 336, 14), ("llava-next-small", 48, 16)])
def test_visual_tokens_of_anyres(name: str, side: int, patch: int) -> None:
    ours = ImageProcessor.from_config(SETTINGS[name], patch=patch)
    counter = _Counter(reference(SETTINGS[name]), patch)
    for width, height in sizes():
        # The reference's count holds the class token, which its "default" strategy takes off again.
        wanted = counter._get_number_of_features(height, width, side, side) - 1
        assert ours.plan((width, height)).num_tokens == wanted, (width, height)


def test_a_long_thin_picture_is_not_scaled_whole() -> None:
    """The reference holds 224×1,120,000 pixels for this; the crop comes out the same."""
    settings = {"image_processor_type": "CLIPImageProcessor", "size": 64, "crop_size": 64}
    ours = ImageProcessor.from_config(settings)
    for size in ((2, 18_000), (40_001, 3), (7, 60_000)):
        picture = rgb(*size)
        (plan,) = ours.pixels([picture])[1]
        assert plan.crops[0].resized[0] * plan.crops[0].resized[1] > 2**25
        pixels = ours.pixels([picture])[0].numpy()
        levels = np.abs(pixels - expected(reference(settings), picture)) * np.array(ours.std)[:, None, None] * 255
        assert levels.max() < 1.01 and (levels < 0.01).mean() >= 0.999, size


def test_a_batch_is_its_pictures_one_by_one(pictures: dict[str, Image.Image]) -> None:
    for name in FIXED:
        ours = ImageProcessor.from_config(SETTINGS[name])
        some = list(pictures.values())[10:16]
        together, plans = ours.pixels(some)
        alone = torch.cat([ours.pixels([picture])[0] for picture in some])
        assert torch.equal(together, alone) and len(plans) == len(some)
