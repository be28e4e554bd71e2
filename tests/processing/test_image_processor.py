"""The image processor: settings, batches, and the way back to a picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.gallery import encoded, rgb

from chiasm.core.errors import ConfigError, PictureError
from chiasm.processing.image_processor import ImageProcessor
from chiasm.processing.picture_bytes import Limits
from chiasm.processing.tilers import AnyRes, CenterCrop, PadSquare, Stretch

CLIP = {"image_processor_type": "CLIPImageProcessor"}
NEXT = {"image_processor_type": "LlavaNextImageProcessor", "size": 336, "crop_size": 336}


def test_defaults_are_clips() -> None:
    assert ImageProcessor.from_config(CLIP) == ImageProcessor()


def test_the_tower_decides_how_tokens_are_counted() -> None:
    processor = ImageProcessor.from_config(CLIP, patch=14)
    assert processor.plan((640, 480)).num_tokens == 256
    assert processor.with_tokens(16, extra=True).plan((640, 480)).num_tokens == 197
    assert processor.with_tokens(None).plan((640, 480)).num_tokens == 0


@pytest.mark.parametrize(
    ("config", "tiler"),
    [
        ({"image_processor_type": "SiglipImageProcessor"}, Stretch(size=(224, 224))),
        ({**CLIP, "size": {"height": 30, "width": 50}, "do_center_crop": False}, Stretch(size=(50, 30))),
        ({**CLIP, "size": 90, "do_center_crop": None}, CenterCrop(resize=90, crop=None)),
        ({**CLIP, "do_resize": False, "crop_size": [20, 10]}, CenterCrop(resize=None, crop=(10, 20))),
        ({"image_processor_type": "LlavaImageProcessor", "do_pad": True, "size": 224}, PadSquare(side=224)),
        (NEXT, AnyRes()),
        ({"image_processor": NEXT, "processor_class": "LlavaNextProcessor"}, AnyRes()),
        ({"image_processor_type": "CLIPImageProcessor", "image_processor": {"size": 64, "crop_size": 64}},
         CenterCrop(resize=64, crop=(64, 64))),
    ],
)  # fmt: skip
def test_published_settings(config: dict[str, Any], tiler: Any) -> None:
    assert ImageProcessor.from_config(config).tiler == tiler


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({}, "image_processor_untyped"),
        ({"image_processor_type": "Idefics9ImageProcessor"}, "image_processor_unknown"),
        ({**CLIP, "do_flip_channel_order": True}, "image_setting_unknown"),
        ({**CLIP, "rescale_offset": 0.5}, "image_setting_unknown"),
        ({**CLIP, "data_format": "channels_last"}, "image_setting_unknown"),
        ({**CLIP, "do_pad": True}, "image_setting_unknown"),
        ({"image_processor_type": "Qwen2VLImageProcessor", "do_resize": False}, "image_setting_unknown"),
        ({"image_processor_type": "LlavaNextImageProcessor", "do_resize": False}, "image_setting_unknown"),
        ({**CLIP, "resample": 17}, "image_setting_unknown"),
        ({**CLIP, "rescale_factor": None}, "image_setting_unknown"),
        ({**CLIP, "image_mean": [0.5, 0.5]}, "image_channels"),
        ({**CLIP, "size": {"shortest_edge": 224, "longest_edge": 400}}, "image_size_unknown"),
        ({**CLIP, "size": None}, "image_size_unknown"),
        ({**CLIP, "crop_size": None}, "image_size_unknown"),
        ({**NEXT, "crop_size": 224}, "image_size_unknown"),
        ({**NEXT, "image_grid_pinpoints": [[300, 336]]}, "pinpoint_not_tiled"),
        ({"image_processor_type": "LlavaImageProcessor", "do_pad": True, "size": 336}, "image_size_unknown"),
    ],
)
def test_settings_that_would_change_pixels_are_refused(config: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageProcessor.from_config(config)
    assert caught.value.code == code


def test_settings_that_say_nothing_about_pixels_are_read_past() -> None:
    silent = {"auto_map": {"AutoProcessor": "evil.Evil"}, "processor_class": "X", "do_flip_channel_order": False}
    assert ImageProcessor.from_config({**CLIP, **silent, "_valid_processor_keys": ["images"]}) == ImageProcessor()


def test_canvases_must_be_the_models() -> None:
    assert ImageProcessor.from_config(NEXT, pinpoints=AnyRes().pinpoints).tiler == AnyRes()
    with pytest.raises(ConfigError) as caught:
        ImageProcessor.from_config(NEXT, pinpoints=[[336, 672]])
    assert caught.value.code == "pinpoints_differ"


def test_what_published_settings_cannot_say_is_not_written() -> None:
    plain = ImageProcessor()
    for odd in (replace(plain, background=None), replace(plain, tiler=CenterCrop(half_even=True))):
        with pytest.raises(ConfigError) as caught:
            odd.to_config()
        assert caught.value.code == "image_setting_unwritable"


def test_padding_of_any_colour_is_written_under_a_name_of_its_own() -> None:
    processor = replace(ImageProcessor(), tiler=PadSquare(side=64, fill=(1, 2, 3)))
    assert ImageProcessor.from_config(processor.to_config()) == processor
    assert processor.to_config()["image_processor_type"] not in ("LlavaImageProcessor", "CLIPImageProcessor")


def test_open_clips_settings_both_ways() -> None:
    config = {"preprocess_cfg": {"size": 224, "interpolation": "bicubic", "resize_mode": "shortest"}}
    processor = ImageProcessor.from_config(config)
    assert processor.tiler == CenterCrop(half_even=True) and processor.background is None
    assert ImageProcessor.from_config(processor.to_config()) == processor
    squash = ImageProcessor.from_config({"preprocess_cfg": {"size": [64, 48], "resize_mode": "squash"}})
    assert squash.tiler == Stretch(size=(48, 64))
    assert ImageProcessor.from_config(squash.to_config()) == squash
    for bad in ({"resize_mode": "longest"}, {"interpolation": "random"}, {"size": [1, 2]}):
        with pytest.raises(ConfigError):
            ImageProcessor.from_config({"preprocess_cfg": bad})
    with pytest.raises(ConfigError):
        ImageProcessor(tiler=PadSquare(), background=None).to_config()


def test_pictures_of_any_source_in_one_batch() -> None:
    processor = ImageProcessor.from_config(CLIP)
    picture = rgb(300, 200)
    pixels, plans = processor.pixels([picture, encoded(picture, "PNG"), np.asarray(picture)])
    assert pixels.shape == (3, 3, 224, 224) and pixels.dtype == torch.float32
    assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])
    assert len(set(plans)) == 1 and plans[0] == processor.plan(picture) == processor.plan((300, 200))


def test_no_pictures_give_no_crops() -> None:
    pixels, plans = ImageProcessor().pixels([])
    assert pixels.shape[:2] == (0, 3) and plans == []


def test_a_bad_picture_is_named_by_its_position() -> None:
    with pytest.raises(PictureError) as caught:
        ImageProcessor().pixels([rgb(4, 4), b"nonsense"])
    assert caught.value.code == "picture_unknown_format" and "picture 1" in str(caught.value)
    small = replace(ImageProcessor(), limits=Limits(max_pixels=10))
    with pytest.raises(PictureError) as caught:
        small.pixels([rgb(4, 4)])
    assert caught.value.code == "picture_too_large"


def test_crops_of_several_sizes_are_refused_by_name() -> None:
    processor = ImageProcessor(tiler=CenterCrop(resize=None, crop=None))
    assert processor.pixels([rgb(9, 5), rgb(9, 5)])[0].shape == (2, 3, 5, 9)
    with pytest.raises(PictureError) as caught:
        processor.pixels([rgb(9, 5), rgb(5, 9)])
    assert caught.value.code == "pictures_ragged" and "9×5" in str(caught.value) and "5×9" in str(caught.value)


@pytest.mark.parametrize(
    "config", [CLIP, {"image_processor_type": "SiglipImageProcessor"}, {**CLIP, "do_rescale": False}, NEXT]
)
def test_as_seen_undoes_the_normalisation_exactly(config: dict[str, Any]) -> None:
    processor = ImageProcessor.from_config(config)
    picture = rgb(700, 500)
    pixels, (plan,) = processor.pixels([picture])
    for crop, wanted in zip(pixels, processor.tiler.render(picture, plan, processor.resample), strict=True):
        seen = processor.as_seen(crop)
        assert seen.mode == "RGB" and np.array_equal(np.asarray(seen), np.asarray(wanted))
    assert processor.unnormalise(pixels).shape == pixels.shape


def test_kosmos_2s_first_settings_mean_a_square() -> None:
    stored = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 64}, "use_square_size": True,
              "crop_size": {"height": 64, "width": 64}, "do_center_crop": True}  # fmt: skip
    plan = ImageProcessor.from_config(stored).plan((100, 50))
    assert plan.crops[0].resized == (64, 64) and plan.crops[0].offset == (0, 0)
