"""Answer metrics against recorded outputs of public implementations, and where those leave cases open."""

from __future__ import annotations

import json
import math
import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from chiasm.evaluation.metrics.answers import exact_match, gqa_match, normalised, vqa_accuracy
from chiasm.evaluation.metrics.choices import circular, open_match, parse_letter, parse_option, rotations
from chiasm.evaluation.metrics.documents import anls, levenshtein, ocr_contains, relaxed_match
from chiasm.evaluation.metrics.language import perplexity
from chiasm.evaluation.metrics.yes_no import COGNITION, mme, parse_yes_no, pope

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics" / "answers.json"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert all(len(cases) >= 200 for name, cases in found.items() if name != "origin")
    return found


def test_the_official_normalisation(golden: dict[str, Any]) -> None:
    assert [normalised(text) for text, _ in golden["normalised"]] == [wanted for _, wanted in golden["normalised"]]


def test_vqa_accuracy(golden: dict[str, Any]) -> None:
    for answer, references, wanted in golden["vqa_accuracy"]:
        assert vqa_accuracy(answer, references) == pytest.approx(wanted, abs=1e-12)


def test_vqa_accuracy_is_three_tenths_a_person_for_ten_answers() -> None:
    """min(0.3 · matches, 1), as the challenge's page has it."""
    for matches in range(11):
        references = ["red"] * matches + ["blue"] * (10 - matches)
        assert vqa_accuracy("red", references) == pytest.approx(min(1.0, 0.3 * matches))
    assert vqa_accuracy("red", []) == 0.0
    assert vqa_accuracy("", ["red"] * 10) == 0.0


def test_letters(golden: dict[str, Any]) -> None:
    assert sum(wanted is None for _, _, wanted in golden["letters"]) > 20, "cases without a letter are among them"
    for reply, options, wanted in golden["letters"]:
        assert parse_letter(reply, options) == wanted


def test_an_option_in_full_is_its_letter() -> None:
    assert parse_option("red bus.", ["blue car", "Red bus"]) == "B"
    assert parse_option("red", ["red", "red"]) is None, "two options read alike"
    assert parse_option("", ["red", "blue"]) is None


def test_open_answers(golden: dict[str, Any]) -> None:
    for reply, references, wanted in golden["open"]:
        assert open_match(reply, references) == wanted


def test_chart_answers(golden: dict[str, Any]) -> None:
    for answer, reference, wanted in golden["chart"]:
        assert relaxed_match(answer, reference) == wanted, (answer, reference)


def test_ocr_answers(golden: dict[str, Any]) -> None:
    for answer, references, formula, wanted in golden["ocr"]:
        assert ocr_contains(answer, references, handwritten_formula=formula) == wanted
    assert ocr_contains("anything", [""]) == 0.0


def test_pope(golden: dict[str, Any]) -> None:
    for pairs, wanted in golden["pope"]:
        found = pope([reply for reply, _ in pairs], [answer for _, answer in pairs])
        assert [found[name] for name in ("accuracy", "precision", "recall", "f1")] == pytest.approx(wanted, abs=1e-12)
        assert found["yes_ratio"] == sum(reply == "yes" for reply, _ in pairs) / len(pairs)


def test_a_reply_that_is_neither_is_wrong_but_no_yes() -> None:
    found = pope([None, "yes", "no"], ["yes", "yes", "no"])
    assert found == {
        "accuracy": pytest.approx(2 / 3),
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "yes_ratio": pytest.approx(1 / 3),
    }
    assert set(pope([], []).values()) == {0.0}


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [("Yes.", "yes"), (" no, it isn't", "no"), ("N", "no"), ("Nothing", None), ("", None), ("I see yes", None)],
)
def test_yes_and_no_are_read_at_the_beginning(reply: str, wanted: str | None) -> None:
    assert parse_yes_no(reply) == wanted


def test_mme(golden: dict[str, Any]) -> None:
    for rows, wanted in golden["mme"]:
        found = mme([right for *_, right in rows], [picture for _, picture, _ in rows], [name for name, *_ in rows])
        assert found["total"] == pytest.approx(wanted, abs=1e-9)
        assert found["perception"] + found["cognition"] == pytest.approx(wanted, abs=1e-9)
    assert mme([1, 0], ["a", "a"], [COGNITION[0]] * 2)["cognition"] == 50.0


def test_anls_against_anls_star() -> None:
    from anls_star import anls_score

    rng = random.Random(3)
    words = ["total", "Total:", "12.50", "12,50", "$ 12.50", "invoice", "INVOICE  no", "", "a", "ab", "é", "not stated"]
    for _ in range(300):
        answer = " ".join(rng.choice(words) for _ in range(rng.randint(0, 3)))
        references = [" ".join(rng.choice(words) for _ in range(rng.randint(0, 3))) for _ in range(rng.randint(1, 3))]
        with warnings.catch_warnings(action="ignore"):
            wanted = anls_score(tuple(references), answer)
        assert anls(answer, references) == pytest.approx(wanted, abs=1e-9)
    assert anls("x", []) == 0.0


def test_levenshtein_against_its_definition() -> None:
    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    rng = random.Random(0)
    for _ in range(200):
        a, b = ("".join(rng.choice("abc") for _ in range(rng.randint(0, 5))) for _ in range(2))
        assert levenshtein(a, b) == slow(a, b)


def test_exact_matches() -> None:
    assert exact_match("A cat.", ["the cat"]) == 1.0
    assert exact_match("cats", ["cat"]) == 0.0
    assert exact_match("", [""]) == 0.0, "an empty answer is never right"
    assert exact_match("cat", []) == 0.0
    assert gqa_match(" Left.", "left") == 1.0
    assert gqa_match("a left", "left") == 0.0


def test_circular_questions() -> None:
    assert rotations(["a", "b", "c"]) == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert circular([1, 1, 1, 0], ["p", "p", "q", "q"]) == {"p": 1, "q": 0}


def test_perplexity() -> None:
    assert perplexity([[math.log(0.5)] * 3, [math.log(0.5)]]) == pytest.approx(2.0)
    assert perplexity([[math.log(0.25)], [math.log(0.5), math.log(0.5)]]) == pytest.approx((4 * 2 * 2) ** (1 / 3))
    assert perplexity([]) == math.inf
    assert perplexity([[-math.inf]]) == math.inf
