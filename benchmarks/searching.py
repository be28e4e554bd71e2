"""How long one search of an index takes: ``python benchmarks/searching.py --rows 100000 200000 500000``.

Random vectors of 384 numbers, as nano-dual's; what is found is compared with every vector's product, so a fast wrong
answer doesn't count. Medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from chiasm.search.index import About, PictureIndex, Row, row_id

WIDTH, COMMIT, FOUND = 384, 20_000, 10


def main() -> None:
    """Fill one index and search it at every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 200_000, 500_000])
    parser.add_argument("--runs", type=int, default=7)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        index = PictureIndex.create(Path(folder) / "index", About("random", np.eye(2, WIDTH, dtype=np.float32)))
        vectors = np.empty((0, WIDTH), np.float32)
        for rows in sorted(asked.rows):
            while len(vectors) < rows:
                new = rng.standard_normal((min(COMMIT, rows - len(vectors)), WIDTH)).astype(np.float32)
                new /= np.linalg.norm(new, axis=1, keepdims=True)
                names = [f"/{len(vectors) + at}" for at in range(len(new))]
                rows_of = zip(names, new, strict=True)
                index.put([Row(row_id(name), name, name, (1, 1), 1, 1, vector) for name, vector in rows_of])
                vectors = np.concatenate([vectors, new])
            query, times = vectors[7], []
            for _ in range(asked.runs):
                start = time.perf_counter()
                hits = index.search(query, FOUND)
                times.append(time.perf_counter() - start)
            best = [f"/{number}" for number in np.argsort(-(vectors @ query))[:FOUND]]
            assert [hit.path for hit in hits] == best, "not the likest"
            print(f"{rows:>9,} vectors: {statistics.median(times):.3f} s a search", flush=True)


if __name__ == "__main__":
    main()
