"""The recipes that differ in pixels: the same parts, the same number of visual tokens."""

from __future__ import annotations

import torch

from chiasm.data.collation import Cells
from chiasm.data.named import open_named
from chiasm.recipes import sharpness
from chiasm.recipes.run import find_recipe
from chiasm.recipes.running.show import show_sample


def test_all_have_as_many_tokens_and_see_as_many_pixels_as_they_say() -> None:
    sample = open_named(sharpness.SMALL)[0]
    shown = sample.conversation.messages[0].parts[0].source
    assert max(shown.size) == 448
    features = {}
    for make, side in ((sharpness.shrunk_cells, 224), (sharpness.tiled_cells, 448), (sharpness.whole_cells, 448)):
        run = make()
        before = find_recipe(run.after).run()
        assert before.model == run.model and before.learn == ("^connector\\.",)
        assert [source.name for source in run.data + before.data] == [sharpness.SMALL] * 2
        model = run.model.build("palme", 0)
        batch = run.collate.build(model.processor)([sample])  # every question of the picture, over one copy of it
        (span,) = batch.spans
        assert span.stop - span.start == 49
        assert batch.pixel_values.shape[-2:] == (side, side)
        with torch.no_grad():
            features[make.__name__] = model.module.visual_features(batch.pixel_values)
    assert features["shrunk_cells"].shape == (1, 49, 768)
    tiled, whole = features["tiled_cells"], features["whole_cells"]
    assert tiled.shape == whole.shape == (1, 49, 4 * 768)
    assert not torch.allclose(tiled, whole, atol=0.1)  # a tile's edge is the end of its world


def test_the_token_that_holds_a_thing_or_a_sign_is_to_know_its_word_and_place() -> None:
    rows = [open_named(sharpness.SMALL)[row] for row in (0, 1)]
    model = sharpness.shrunk_cells().model.build("palme", 0)
    batch = Cells().build(model.processor)(rows)
    encode, decode = model.processor.tokenizer.encode, model.processor.tokenizer.decode
    assert batch.labels.shape == (2, 49, 4) and len(batch.plans) == 2
    for row, labels in zip(rows, batch.labels.view(2, 7, 7, 4), strict=True):
        stage = row.conversation.messages[0].parts[0].source
        told = {decode(ids[ids > 0].tolist()) for ids in labels.flatten(0, 1) if ids[0] > 0}
        assert told == {f"{element.name} {stage.cell(element)}" for element in stage.elements}
        first = stage.elements[0]
        x, y = (int(7 * at / extent) for at, extent in zip(first.center, stage.size, strict=True))
        assert labels[y, x, 0] == encode(first.name)[0] and labels[y, x, -1] == -100
    things = rows[0].conversation.messages[0].parts[0].source.elements
    (line,) = show_sample(model.processor, batch)
    assert f"{len(things)} of 49 tokens" in line.plain and things[0].name in line.plain
    assert (batch.labels[..., 0] == 0).sum() > 80  # the other cells say nothing
