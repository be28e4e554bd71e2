"""Hard negatives and re-ranked retrieval, with a head that can be trusted and one that can't."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.fakes import Looker
from tests.evaluation.test_embedding import COLOURS, task

from chiasm.evaluation import evaluate as engine
from chiasm.evaluation.evaluate import Plan, evaluate
from chiasm.evaluation.matching import HardNegatives, Judged, Reranked, hard_negatives
from chiasm.evaluation.ranking import matching_metrics, retrieval_metrics
from chiasm.processing.pictures import read_picture


class Judge(Looker):
    """Embeds badly (every text alike) and judges pairs rightly, or the wrong way round; counts pairs."""

    def __init__(self, *, wrong: bool = False, can: tuple[str, ...] = ("embed", "match")) -> None:
        super().__init__()
        self.wrong, self.pairs, self.capabilities = wrong, 0, frozenset(can)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.tile(np.eye(12, dtype=np.float32)[0], (len(texts), 1))

    def match(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        self.pairs += len(texts)
        seen = [np.asarray(read_picture(image), dtype=float).mean((0, 1)) for image in images]
        said = [np.array([int(part) for part in text.split("/")]) for text in texts]
        near = [float(np.exp(-np.abs(a - b).mean() / 20)) for a, b in zip(seen, said, strict=True)]
        return [1 - value if self.wrong else value for value in near]


def run(found: Any, predictor: Looker, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(engine, "known_tasks", lambda: {found.name: found})
    return evaluate(predictor, Plan(tasks=[found], out=out))["chiasm"][found.name]["metrics"]


def with_way(way: str, prepare: Any, metrics: Any) -> Any:
    from dataclasses import replace

    return replace(task("colours", prepare, metrics), way=way)


def test_the_nearest_wrong_caption_shares_most_words() -> None:
    texts = ["a red cat on a mat", "a red dog on a mat", "two boats", "A RED CAT ON A MAT", "two big boats"]
    assert hard_negatives(texts) == [1, 3, 4, 1, 2]


def test_a_head_decides_hard_negatives_and_is_asked_once_a_pair(tmp_path: Path, monkeypatch: Any) -> None:
    found = with_way("match", HardNegatives(), matching_metrics())
    judge = Judge(can=("match",))
    told = run(found, judge, tmp_path / "a", monkeypatch)
    assert told["chosen"]["seen"]["value"] == told["accuracy"]["seen"]["value"] == 1.0
    assert told["accuracy"]["blind"]["value"] <= 0.6 and told["chosen"]["swapped"]["value"] < 1.0
    assert judge.pairs <= 3 * 2 * len(COLOURS)
    wrong = run(found, Judge(wrong=True, can=("match",)), tmp_path / "b", monkeypatch)
    assert wrong["chosen"]["seen"]["value"] == 0.0
    cosine = run(found, Judge(can=("embed",)), tmp_path / "c", monkeypatch)
    assert cosine["accuracy"]["n"] == 0 and cosine["chosen"]["n"] == len(COLOURS)


def test_reranking_is_the_head_s_within_the_shortlist(tmp_path: Path, monkeypatch: Any) -> None:
    base = run(task("colours", Reranked(0), retrieval_metrics()), Judge(), tmp_path / "a", monkeypatch)
    assert base["to_text_r@1"]["seen"]["value"] < 1.0
    found = with_way("rerank", Reranked(len(COLOURS)), retrieval_metrics())
    judge = Judge()
    told = run(found, judge, tmp_path / "b", monkeypatch)
    assert told["to_text_r@1"]["seen"]["value"] == told["to_picture_r@1"]["seen"]["value"] == 1.0
    assert told["to_picture_r@1"]["blind"]["value"] == 0.0
    assert judge.pairs == len(COLOURS) * (len(COLOURS) + 1)  # every picture and the mean one, with every caption


def test_joint_reranking_adds_the_scaled_similarity_to_log_odds(tmp_path: Path, monkeypatch: Any) -> None:
    """Of a pair with matching probability p and cosine c it must make log(p / (1 − p)) + s·c: sums are checked."""
    places = Reranked(joint=True)._ordered([0.9, 0.5, 1.0], 3.0 * np.array([0.2, 0.9, -1.0]))
    expected = [np.log(9) + 0.6, 2.7, np.log((1 - 5e-7) / 5e-7) - 3.0]
    assert np.allclose(places, expected, atol=1e-6)
    found = with_way("rerank", Reranked(len(COLOURS), joint=True), retrieval_metrics())
    for name, scale, wrong, right in (("a", 0.0, False, True), ("b", 1e6, False, False), ("c", 0.0, True, False)):
        judge = Judge(wrong=wrong)
        judge.similarity_scale = lambda scale=scale: scale
        told = run(found, judge, tmp_path / name, monkeypatch)
        # every text has the same vector: the similarities alone order pictures alike for all of them
        assert (told["to_picture_r@1"]["seen"]["value"] == 1.0) == right


def test_what_a_model_lacks_is_said(tmp_path: Path, monkeypatch: Any) -> None:
    found = with_way("rerank", Reranked(), retrieval_metrics())
    with pytest.raises(engine.ConfigError, match="the model has no embed and match"):
        run(found, Judge(can=("embed",)), tmp_path, monkeypatch)


def test_a_head_without_embeddings_ranks_all_pairs(tmp_path: Path, monkeypatch: Any) -> None:
    found = with_way("match", Judged(), retrieval_metrics())
    judge = Judge(can=("match",))
    told = run(found, judge, tmp_path / "a", monkeypatch)
    assert told["to_text_r@1"]["seen"]["value"] == told["to_picture_r@1"]["seen"]["value"] == 1.0
    assert told["to_picture_r@1"]["blind"]["value"] == 0.0
    assert judge.pairs == len(COLOURS) ** 2 + len(COLOURS)  # every pair once, and the mean picture with every text
    misled = run(found, Judge(wrong=True, can=("match",)), tmp_path / "b", monkeypatch)
    assert misled["to_text_r@1"]["seen"]["value"] == 0.0


def test_pointing_needs_the_first_point_in_a_box_and_the_prior_points_at_the_middle() -> None:
    from chiasm.core.messages import Conversation
    from chiasm.evaluation.protocol import Item
    from chiasm.evaluation.tasks.own import _centres, _hit

    boxes = [{"box": [0, 0, 10, 10], "phrase": "dog"}, {"box": [45, 25, 55, 35], "phrase": "dog"}]
    truth = {"boxes": boxes, "phrase": "dog", "size": [100, 60]}  # a judged item holds no picture any more
    item = Item(key="a", conversation=Conversation(()), truth=truth)
    assert _centres([item]) == [[(50.0, 30.0)]]
    assert (
        _hit(item, [(50.0, 30.0)]) == 1.0 and _hit(item, [(30.0, 30.0), (5.0, 5.0)]) == 0.0 and _hit(item, None) == 0.0
    )
