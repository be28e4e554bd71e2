"""The recipes that differ in pixels: the same parts, the same number of visual tokens."""

from __future__ import annotations

import torch

from chiasm.data.named import open_named
from chiasm.recipes import sharpness


def test_all_have_as_many_tokens_and_see_as_many_pixels_as_they_say() -> None:
    sample = open_named("scenes:train:small?size=112&nouns=24&count=3")[0]
    shown = sample.conversation.messages[0].parts[0].source
    assert max(shown.size) == 448
    features = {}
    for make, side in ((sharpness.shrunk_cells, 224), (sharpness.tiled_cells, 448), (sharpness.whole_cells, 448)):
        run = make()
        assert [source.name for source in run.data] == [sharpness.SMALL]
        model = run.model.build("palme", 0)
        batch = model.processor([sample.conversation], add_generation_prompt=False, supervise=True)
        (span,) = batch.spans
        assert span.stop - span.start == 49
        assert batch.pixel_values.shape[-2:] == (side, side)
        with torch.no_grad():
            features[make.__name__] = model.module.visual_features(batch.pixel_values)
    assert features["shrunk_cells"].shape == (1, 49, 768)
    tiled, whole = features["tiled_cells"], features["whole_cells"]
    assert tiled.shape == whole.shape == (1, 49, 4 * 768)
    assert not torch.allclose(tiled, whole, atol=0.1)  # a tile's edge is the end of its world
