"""The feature store: computed once, gone on with where it stopped."""

import pytest
import torch

from chiasm.training.feature_rows import BLOCK, stored_features


def test_features_are_computed_once(tmp_path):
    asked = []

    def compute(rows):
        asked.append(rows)
        if len(asked) == 2:
            raise RuntimeError("killed")
        return torch.tensor([[float(row), 1.0] for row in rows])

    description = {"tower": "a"}
    with pytest.raises(RuntimeError):
        stored_features(tmp_path, description, 3 * BLOCK, (2,), compute)
    found = stored_features(tmp_path, description, 3 * BLOCK, (2,), compute)
    assert found.dtype == torch.float16 and found[:, 0].tolist() == list(range(3 * BLOCK))
    assert [rows.start for rows in asked] == [0, BLOCK, BLOCK, 2 * BLOCK]
    stored_features(tmp_path, description, 3 * BLOCK, (2,), compute)
    assert len(asked) == 4
    stored_features(tmp_path, {"tower": "b"}, BLOCK, (2,), compute)
    assert len(asked) == 5
