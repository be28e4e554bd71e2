"""A frozen tower's features: computed once, keyed by everything they depend on, with the same losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import chiasm
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Place, Sample
from chiasm.data.collation import Conversations, Pairs
from chiasm.data.loader import Loader
from chiasm.objectives.captioning import NextToken
from chiasm.training.features import frozen_features, picture_key


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


class Drawn:
    """A picture drawn on demand, that counts how often."""

    drawn = 0

    def __init__(self, seed: int) -> None:
        self.seed, self.fingerprint = seed, f"drawn {seed}"

    def picture(self) -> Image.Image:
        Drawn.drawn += 1
        return picture(self.seed)


class Talks:
    name, fingerprint = "talks", "talks"

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> Sample:
        pictures = tuple(ImagePart(Drawn(row % 9 + shift)) for shift in range(1 + row % 2))
        turns = (Message("user", (*pictures, TextPart("what is it?"))), Message("assistant", (TextPart(f"a {row}"),)))
        return Sample(key=str(row), conversation=Conversation(turns), place=Place("talks", row), captions=("a cat",))


def frozen(family: str):
    model = chiasm.new(family)
    model.module.vision.requires_grad_(False).eval()
    return model


def losses(model, processor, features=None, *, pack=None, workers=0, count=6) -> list[float]:
    out = []
    with Loader(Talks(), Conversations(pack=pack).build(processor), batch_size=4, workers=workers) as loader:
        for number in range(count):
            batch = loader(number)
            batch = batch if features is None else features.fill(batch)
            assert features is None or batch.pixel_values is None
            out.append(NextToken().build()(model.module, batch)["loss"].item())
    return out


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize(("pack", "workers"), [(None, 0), (300, 0), (None, 2)])
def test_losses_are_the_same_and_every_picture_is_computed_once(family, pack, workers, tmp_path):
    model = frozen(family)
    expected = losses(model, model.processor, pack=pack)
    features = frozen_features(model.module, model.processor, tmp_path)
    assert losses(model, features.processor, features, pack=pack, workers=workers) == pytest.approx(expected, abs=1e-6)
    assert features.computed == 9 and features.hits > 0
    features.close()
    again, before = frozen_features(model.module, model.processor, tmp_path), Drawn.drawn
    assert losses(model, again.processor, again, pack=pack) == pytest.approx(expected, abs=1e-6)
    assert again.computed == 0 and Drawn.drawn == before and again.report()["stored"] == 9


def test_half_precision_is_close_and_the_same_from_the_first_epoch_on(tmp_path):
    model = frozen("llava")
    expected = losses(model, model.processor)
    features = frozen_features(model.module, model.processor, tmp_path, dtype="float16")
    first, second = (losses(model, features.processor, features) for _ in range(2))
    assert first == second and first != expected and first == pytest.approx(expected, abs=2e-3)


def test_a_dual_encoder_with_a_locked_tower(tmp_path):
    model = frozen("clip")
    features = frozen_features(model.module, model.processor, tmp_path)
    samples = [Talks()[row] for row in range(4)]
    plain = model.module.embed(Pairs().build(model.processor)(samples))
    for _ in range(2):
        stored = features.fill(Pairs().build(features.processor)(samples))
        for ours, theirs in zip(model.module.embed(stored), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert features.computed == features.hits == 4


def test_gradients_reach_what_follows_the_tower(tmp_path):
    model = frozen("llava")
    features = frozen_features(model.module, model.processor, tmp_path)
    batch = features.fill(Conversations().build(features.processor)([Talks()[0]]))
    NextToken().build()(model.module, batch)["loss"].backward()
    assert all(p.grad is not None for p in model.module.connector.parameters())


def test_the_key_holds_everything_that_features_depend_on(tmp_path):
    def store(model):
        features = frozen_features(model.module, model.processor, tmp_path)
        features.store._lock.close()
        return features.store.folder

    model = frozen("llava")
    first = store(model)
    model.module.connector.fc1.weight.data.add_(1)
    assert store(model) == first
    model.processor.image_processor = replace(model.processor.image_processor, mean=(0.0, 0.0, 0.0))
    assert store(model) != first
    other = frozen("llava")
    other.module.vision.pos_embed.data[0, 0] += 1e-3
    assert store(other) != first
    assert frozen_features(chiasm.new("llava").module, model.processor, tmp_path) is None


def test_pictures_are_known_by_content(tmp_path):
    path, copy = tmp_path / "a.png", tmp_path / "b.png"
    picture(1).save(path)
    copy.write_bytes(path.read_bytes())
    assert picture_key(path) == picture_key(str(copy)) == picture_key(path.read_bytes()) != picture_key(picture(1))
    assert picture_key(picture(1)) == picture_key(picture(1)) != picture_key(picture(2))
    assert picture_key(picture(1).convert("P")) != picture_key(picture(1))
    assert picture_key(np.asarray(picture(1))) != picture_key(np.asarray(picture(2)))
    picture(2).save(path)
    assert picture_key(path) != picture_key(copy)
    assert picture_key(tmp_path / "none.png") is None and picture_key(3) is None
