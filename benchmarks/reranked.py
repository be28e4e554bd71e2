"""What re-ranking adds to the dual encoder alone, on the same pictures: ``python benchmarks/reranked.py EVALUATION …``.

EVALUATION is the folder of one model's measurement, such as ``runs/long/eval/albef_cells/0`` of a comparison, with the
tasks retrieval, reranking and joint_reranking. Points of R@1 and R@10 with the 95 % interval of a paired bootstrap.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from chiasm.evaluation.statistics import paired, resamples

METRICS = ("to_text_r@1", "to_picture_r@1", "to_text_r@10", "to_picture_r@10")


def figures(folder: Path, task: str) -> dict[str, dict[str, float]]:
    """Each picture's figures in a task, by its name."""
    lines = (folder / "samples" / f"{task}.jsonl").read_text("utf-8").splitlines()
    return {row["doc_id"]: row for row in map(json.loads, lines)}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluations", nargs="+", type=Path, metavar="EVALUATION")
    for folder in parser.parse_args().evaluations:
        alone = figures(folder, "retrieval")
        draws = resamples(list(alone))
        for task in ("reranking", "joint_reranking"):
            anew = figures(folder, task)
            for metric in METRICS:
                first, second = (np.array([rows[name][metric] for name in alone]) for rows in (anew, alone))
                told = paired(
                    lambda at, of=first: of[at].mean(), lambda at, of=second: of[at].mean(), len(alone), draws
                )
                low, high = 100 * told["low"], 100 * told["high"]
                print(f"{folder} {task} {metric} {100 * told['difference']:+.1f} ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
