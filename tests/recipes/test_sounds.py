"""Pictures with sounds: the generated world's calls, rows of one's own, and the tower that learns them."""

from __future__ import annotations

import io
import json
import wave
from collections import Counter

import numpy as np
import pytest
import torch
from tests.parity.test_families import picture

from chiasm.core.errors import PromptError
from chiasm.data.collation import PictureSounds, sound
from chiasm.data.named import open_named
from chiasm.data.open import open_dataset
from chiasm.data.worlds.sounds import SceneSound, call_of
from chiasm.models import imagebind
from chiasm.models.imagebind import tiny
from chiasm.objectives.binding import BoundToPictures
from chiasm.weights.load import new


def test_a_scene_s_sound_follows_from_its_names() -> None:
    samples = list(open_named("scenes:train:sounds?size=64&nouns=12&count=12"))
    again = open_named("scenes:train:sounds?size=64&nouns=12&count=12")[3]
    assert sound(samples[3]).wav() == sound(again).wav()
    assert len({sound(sample).fingerprint for sample in samples}) == 12
    with wave.open(io.BytesIO(sound(samples[0]).wav())) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16000, 1, 32000)
    calls = {call_of(name) for sample in samples for name in sound(sample).names}
    assert len(calls) == len({name for sample in samples for name in sound(sample).names})
    assert Counter(len(sound(sample).names) for sample in samples).keys() == {1, 2}
    same = SceneSound(("dog",), 1), SceneSound(("dog",), 2)
    assert same[0].wav() != same[1].wav() and same[0].fingerprint != same[1].fingerprint


def test_rows_with_a_picture_and_a_sound_are_read_and_bound(tmp_path) -> None:
    lines = []
    for name in ("dog", "bird"):
        picture(len(name), 40, 30).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.wav").write_bytes(SceneSound((name,), 0).wav())
        lines.append(json.dumps({"image": f"{name}.png", "sound": f"{name}.wav"}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    rows = list(open_dataset(str(tmp_path / "data.jsonl")))
    assert [sound(row).rsplit("/")[-1] for row in rows] == ["dog.wav", "bird.wav"]
    model = new("imagebind")
    batch = PictureSounds().build(model.processor)(rows)
    assert batch.pixel_values.shape[0] == 2 and batch.others.shape == (2, 1, 1, 128, 204)
    whole = model.module.embed_kind("audio", model.processor.sounds([sound(row) for row in rows]))
    torch.testing.assert_close(model.module.embed_kind("audio", batch.others), whole, atol=1e-5, rtol=1e-5)
    with pytest.raises(PromptError) as caught:
        sound(open_named("scenes:train:captions?count=1")[0])
    assert caught.value.code == "sample_no_sound"


def test_the_loss_is_the_papers_and_reaches_the_tower_for_sounds() -> None:
    torch.manual_seed(0)
    model = new("imagebind")
    module, samples = model.module, list(open_named("scenes:train:sounds?size=64&nouns=12&count=3"))
    module.vision.requires_grad_(False)
    batch = PictureSounds().build(model.processor)(samples)
    loss = BoundToPictures().build()(module, batch)["loss"]
    loss.backward()
    assert all(p.grad is not None for p in module.towers["audio"].parameters())
    q, k = module.embed_images(batch.pixel_values), module.embed_kind("audio", batch.others)
    expected = 0.0
    for i in range(3):
        for a, b in ((q, k), (k, q)):
            row = [float(imagebind.SCALES["audio"] * (a[i] @ b[j]).detach()) for j in range(3)]
            expected += (np.log(np.exp(row).sum()) - row[i]) / 6
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    assert tiny()[0].audio is not None
