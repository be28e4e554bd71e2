"""ImageBind's towers against torch's own attention and convolutions under the authors' names; its file; its sounds."""

from __future__ import annotations

import io
import math
import wave
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.parity.agreement import ATOL
from tests.parity.test_families import picture
from tests.parity.test_presets import on_meta

import chiasm
from chiasm.core.errors import CapabilityError, DataError
from chiasm.models.imagebind import PRESETS, tiny
from chiasm.processing import audio
from chiasm.weights.convert import convert
from chiasm.weights.layouts import imagebind as layout
from chiasm.weights.load import initialise


def by_the_book(state, kind: str, x: torch.Tensor, heads: int, kernel) -> torch.Tensor:
    """One of the authors' towers, from their tensors, with torch's own functions."""
    get = state.__getitem__
    before, head = f"modality_preprocessors.{kind}.", f"modality_heads.{kind}."
    width = get(before + "cls_token").shape[-1]
    x = kernel(x, get(layout._stem_name(kind)))
    if kind != "vision":
        norm = before + layout._STEMS[kind] + ".norm_layer."
        x = F.layer_norm(x, (width,), get(norm + "weight"), get(norm + "bias"))
    x = torch.cat((get(before + "cls_token").expand(len(x), -1, -1), x), 1) + get(layout._places(kind))
    trunk = f"modality_trunks.{kind}."
    if kind == "vision":
        pre = trunk + "pre_transformer_layer.0."
        x = F.layer_norm(x, (width,), get(pre + "weight"), get(pre + "bias"), 1e-6)
    for i in range(sum(name.startswith(trunk) and name.endswith("norm_1.weight") for name in state)):
        b = f"{trunk}blocks.{i}."
        y = F.layer_norm(x, (width,), get(b + "norm_1.weight"), get(b + "norm_1.bias"), 1e-6).transpose(0, 1)
        y, _ = F.multi_head_attention_forward(
            y, y, y, width, heads, get(b + "attn.in_proj_weight"), get(b + "attn.in_proj_bias"),
            state.get(b + "attn.bias_k"), state.get(b + "attn.bias_v"), False, 0.0,
            get(b + "attn.out_proj.weight"), get(b + "attn.out_proj.bias"), need_weights=False,
        )  # fmt: skip
        x = x + y.transpose(0, 1)
        y = F.layer_norm(x, (width,), get(b + "norm_2.weight"), get(b + "norm_2.bias"), 1e-6)
        y = F.gelu(F.linear(y, get(b + "mlp.fc1.weight"), get(b + "mlp.fc1.bias")))
        x = x + F.linear(y, get(b + "mlp.fc2.weight"), get(b + "mlp.fc2.bias"))
    x = F.layer_norm(x, (width,), get(head + "0.weight"), get(head + "0.bias"), 1e-6)[:, 0]
    return F.normalize(x @ get(head + ("3" if kind == "imu" else "2") + ".weight").T, dim=-1)


@pytest.fixture(scope="module")
def tower():
    config, _ = tiny()
    module = initialise(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module, layout.table(config).to_theirs(module.state_dict())


@pytest.mark.parametrize("kind", ["audio", "depth", "thermal", "imu"])
def test_further_towers_agree(tower, kind) -> None:
    module, state = tower
    config = module.config.kinds[kind]
    x = torch.randn(2, *config.stem.input_shape, generator=torch.manual_seed(1))

    def plane(x, weight):
        return F.conv2d(x, weight, stride=config.stem.stride).flatten(2).transpose(1, 2)

    def motion(x, weight):
        return F.linear(x.unfold(-1, 8, 8).permute(0, 2, 1, 3).reshape(len(x), -1, 48), weight)

    expected = by_the_book(state, kind, x, config.num_heads, motion if kind == "imu" else plane)
    assert (module.embed_kind(kind, x) - expected).abs().max() <= ATOL
    clips = torch.stack((x, x.flip(-1)), 1)
    mean = (module.embed_kind(kind, x) + module.embed_kind(kind, x.flip(-1))) / 2
    assert (module.embed_kind(kind, clips) - mean).abs().max() <= ATOL


def test_pictures_and_films_agree(tower) -> None:
    module, state = tower
    x = torch.randn(2, 3, 2, 32, 32, generator=torch.manual_seed(1))

    def film(x, weight):
        return F.conv3d(x, weight, stride=(2, 8, 8)).flatten(2).transpose(1, 2)

    assert (module.embed_images(x) - by_the_book(state, "vision", x, 2, film)).abs().max() <= ATOL
    still = x[:, :, :1].expand(-1, -1, 2, -1, -1)
    assert (module.embed_images(x[:, :, 0]) - by_the_book(state, "vision", still, 2, film)).abs().max() <= ATOL


def test_an_authors_checkpoint_converts_and_loads_with_and_without_sounds(tmp_path) -> None:
    config, processor = tiny()
    one = {name: replace(tower, num_heads=1) for name, tower in config.kinds.items()}
    config = replace(
        config, vision=replace(config.vision, num_heads=1), language=replace(config.language, num_heads=1), **one
    )
    for number, lacks in enumerate(({}, {"audio": None, "imu": None})):
        some = replace(config, **lacks)
        module, source = initialise(some), tmp_path / f"source{number}"
        theirs = layout.table(some).to_theirs(module.state_dict())
        extra = {"modality_preprocessors.text.mask": torch.zeros(77, 77)}
        extra |= {f"modality_postprocessors.{kind}.1.log_logit_scale": torch.zeros(()) for kind in some.kinds}
        source.mkdir()
        torch.save({**theirs, **extra}, source / "imagebind.pth")
        processor.save(source)
        convert(source, tmp_path / f"out{number}")
        loaded = chiasm.load(tmp_path / f"out{number}")
        assert loaded.config == some
        for name, tensor in module.state_dict().items():
            assert torch.equal(loaded.module.state_dict()[name], tensor), name
    with pytest.raises(CapabilityError, match="reads images, texts, depth, thermal, not audio"):
        loaded.module.embed_kind("audio", torch.zeros(1, 1, 128, 204))
    with pytest.raises(CapabilityError, match="modality_missing"):
        loaded.processor.sounds([np.zeros(16000)], 16000)


def test_the_published_size() -> None:
    module = on_meta(PRESETS["imagebind_huge"].build)
    assert round(sum(p.numel() for p in module.parameters()) / 1e6) == 1201


def wav(samples: np.ndarray, rate: int, width: int = 2) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1), file.setsampwidth(width), file.setframerate(rate)
        levels = (samples * (2 ** (8 * width - 1) - 1)).round().astype(np.int64)
        levels = levels + 128 if width == 1 else levels
        file.writeframes(b"".join(int(level).to_bytes(width, "little", signed=width > 1) for level in levels))
    return data.getvalue()


def tone(hertz: float, rate: int, seconds: float = 0.3) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_files_of_every_width_are_read(width) -> None:
    read = audio.read_sound(wav(tone(440, 16000), 16000, width))
    assert np.abs(read - tone(440, 16000)).max() <= 2.0 ** (2 - 8 * min(width, 3))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_become_16_khz(rate) -> None:
    read = audio.read_sound(wav(tone(440, rate), rate))
    expected = tone(440, 16000)
    assert abs(len(read) - len(expected)) <= 1
    assert np.abs(read - expected[: len(read)])[200:-200].max() <= 5e-3


def test_mel_is_the_filterbank_written_out() -> None:
    samples = np.random.default_rng(0).normal(size=900)
    ours, shifted = audio.mel(samples), samples - samples.mean()
    for at in (0, 3):
        frame = shifted[at * 160 : at * 160 + 400]
        frame = frame - frame.mean()
        frame = [x - 0.97 * frame[max(0, n - 1)] for n, x in enumerate(frame)]
        frame = [x * (0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) for n, x in enumerate(frame)]
        turns = np.exp(-2j * np.pi * np.outer(np.arange(256), np.arange(400)) / 512)
        power = np.abs(turns @ np.array(frame)) ** 2
        edges = [1127 * math.log(1 + f / 700) for f in (20.0, 8000.0)]
        step = (edges[1] - edges[0]) / 129
        for band in (0, 17, 127):
            left = edges[0] + band * step
            total = 0.0
            for n in range(256):
                m = 1127 * math.log(1 + n * 31.25 / 700)
                total += power[n] * max(0.0, min((m - left) / step, (left + 2 * step - m) / step))
            assert ours[band, at] == pytest.approx(math.log(max(total, 1.1920929e-07)), abs=1e-4)


def test_sounds_meet_pictures() -> None:
    model = chiasm.new("imagebind")
    sounds = model.processor.sounds([wav(tone(440, 16000, 3.0), 16000), wav(tone(2000, 44100), 44100)])
    assert sounds.shape == (2, 3, 1, 128, 204)
    heard = model.module.embed_kind("audio", sounds)
    seen = model.embed_images([picture(1, 40, 30), picture(2, 30, 40)])
    assert model.module.kind_logits("audio", seen, heard).shape == (2, 2)


def test_bad_sounds_are_refused_by_name() -> None:
    for source, rate, code in (
        (np.zeros(100), None, "audio_rate"),
        (np.zeros(0), 16000, "audio_empty"),
        (b"not a wav", None, "audio_unreadable"),
        ("/nowhere/sound.wav", None, "audio_missing"),
        (np.zeros(100), 16000, "audio_short"),
    ):
        with pytest.raises(DataError, match="sound 0") as caught:
            audio.spectrograms([source], rate)
        assert caught.value.code == code
