"""Features of the numbered rows of a generated data set as one array, for recipes that train on nothing else.

Features lie in one float16 array on disk, mapped, not read. A small file beside it counts the rows that are
done, so that a killed computation goes on where it stopped; another description makes another array.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

BLOCK = 32


def stored_features(
    folder: Path,
    description: dict[str, object],
    rows: int,
    shape: tuple[int, ...],
    compute: Callable[[range], torch.Tensor],
    *,
    on_block: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Features of `rows` samples, computed where they aren't there yet.

    Args:
        folder: holds stores.
        description: everything the features depend on but the number of rows; it names the store.
        rows: samples wanted.
        shape: of one sample's features.
        compute: sample numbers → (n, *shape) features.
        on_block: called with the number of rows done.

    Returns:
        (rows, *shape) float16, mapped from disk.
    """
    name = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
    path, mark = folder / f"{name}.f16", folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    done = json.loads(mark.read_text())["rows"] if mark.exists() else 0
    if done < rows:
        with path.open("r+b" if path.exists() else "w+b") as file:
            for start in range(done, rows, BLOCK):
                block = range(start, min(rows, start + BLOCK))
                with torch.inference_mode():
                    values = compute(block).half().numpy()
                assert values.shape == (len(block), *shape), f"features {values.shape}, expected {(len(block), *shape)}"
                file.seek(start * values[0].nbytes)
                file.write(values.tobytes())
                file.flush()
                mark.write_text(json.dumps({**description, "rows": block.stop}))
                if on_block is not None:
                    on_block(block.stop)
    return torch.from_numpy(np.memmap(path, np.float16, "r+", shape=(rows, *shape)))
