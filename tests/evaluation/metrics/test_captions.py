"""Caption scores against `pycocoevalcap`, its Java tokenizer included."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from chiasm.evaluation.metrics.captions import bleu, chair, cider_d, mentioned, rouge_l, tokenized
from chiasm.evaluation.metrics.ptb import tokenize

ODD = (
    "A man's dog doesn't bark, can't bite & won't run.",
    "“Curly quotes” and ‘single ones’ — with a dash … and dots...",
    'He said "stop!" (loudly) [twice] {once}; then left: quietly',
    "A black-and-white T-shirt, size 42, costs $5.50 or €4 (50% off)!",
    "U.S. Army trucks on St. Mark's Rd. in Washington D.C.",
    "Mr. and Mrs. Smith at 10:30 a.m. on Jan. 5, 2014",
    "It's 5 o'clock; y'all cannot go, 'twas gonna rain",
    "a 3-year-old with a 1/2-eaten hot-dog w/ mustard and/or ketchup",
    "AT&T sign #7 next to a #hashtag and user@example.com at www.example.com/a-b",
    "5'10\" tall, 3.5 lbs., no. 9, 1990's '90s 80s",
    "The dogs' bowl, the dog 's bowl , and rock 'n' roll",
    "<b>bold</b> text -- and --- dashes - here :) ;-) ^_^",
    "café, naïve, Zürich, 北京, ½ cup, 20° C, © 2014 ™",
    "What?! No!! Really?? e.g. i.e. etc.",
    "Plan B. A man. I. The end.",
    "foo.jpg and file_name_1.txt x.y. c++ c#",
    "", " ", ".", "...", "'", '"', "-", "a", "A.", "?!",
)  # fmt: skip


def captions(seed: int, count: int) -> list[str]:
    """Odd captions, whole and in pieces put together anew."""
    rng = random.Random(seed)
    pieces = [word for text in ODD for word in text.split()]
    made = [" ".join(rng.choice(pieces) for _ in range(rng.randint(0, 12))) for _ in range(count)]
    return [*ODD, *(text + rng.choice(("", ".", "!", " .")) for text in made)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """`PTBTokenizer.tokenize` on a list, its scratch file in a folder of the test's own."""
    import pycocoevalcap.tokenizer.ptbtokenizer as module

    assert shutil.which("java"), "the comparison with pycocoevalcap needs Java"
    folder = tmp_path_factory.mktemp("ptb")
    jar = Path(module.__file__).parent / module.STANFORD_CORENLP_3_4_1_JAR
    (folder / jar.name).symlink_to(jar)
    home, module.__file__ = module.__file__, str(folder / "ptbtokenizer.py")

    def run(texts: list[str]) -> list[str]:
        found = module.PTBTokenizer().tokenize({at: [{"caption": text}] for at, text in enumerate(texts)})
        return [found[at][0] if at in found else "" for at in range(len(texts))]

    yield run
    module.__file__ = home


def test_tokens_of_odd_captions(original) -> None:  # type: ignore[no-untyped-def]
    texts = captions(1, 600)
    wanted = original(texts)
    for text, ours, theirs in zip(texts, tokenize(texts), wanted, strict=True):
        assert ours == theirs.strip(), text


def test_scores_of_odd_captions(original) -> None:  # type: ignore[no-untyped-def]
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider_scorer import CiderScorer
    from pycocoevalcap.rouge.rouge import Rouge

    rng = random.Random(5)
    words = ["a", "dog", "the", "man's", "red", "T-shirt,", "sits", "on", "it.", "(big)", "don't", "two", "10:30"]
    references, candidates = [], []
    for _ in range(250):
        texts = [" ".join(rng.choice(words) for _ in range(rng.randint(1, 12))) for _ in range(rng.randint(1, 5))]
        references.append(texts)
        candidates.append(rng.choice((texts[0], " ".join(rng.sample(words, rng.randint(0, 9))), "", "a")))
    ours, our_references = tokenized(candidates, references)
    flat = iter(original([text for texts in references for text in texts]))
    their_references = [[next(flat) for _ in texts] for texts in references]
    theirs = original(candidates)

    bleu_scorer, cider_scorer = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0)
    for candidate, texts in zip(theirs, their_references, strict=True):
        bleu_scorer += (candidate, texts)
        cider_scorer += (candidate, texts)
    corpus, singles = bleu_scorer.compute_score(option="closest")
    our_corpus, our_singles = bleu(ours, our_references)
    np.testing.assert_allclose(our_corpus, corpus, atol=1e-6)
    np.testing.assert_allclose(our_singles, np.array(singles).T, atol=1e-6)
    mean, each = cider_scorer.compute_score()
    found = cider_d(ours, our_references)
    np.testing.assert_allclose(found, each, atol=1e-6)
    assert abs(np.mean(found) - mean) < 1e-6
    wanted = [Rouge().calc_score([c], texts) for c, texts in zip(theirs, their_references, strict=True)]
    np.testing.assert_allclose(
        [rouge_l(c, texts) for c, texts in zip(ours, our_references, strict=True)], wanted, atol=1e-6
    )


def test_degenerate_corpora() -> None:
    assert bleu([], []) == ([0.0] * 4, [])
    assert cider_d([], []) == []
    assert cider_d(["a dog"], [["a dog"]]) == [0.0], "one picture: every n-gram is in every document"
    assert bleu([""], [["a dog"]])[0] == pytest.approx([0.0] * 4)
    assert rouge_l("", ["a dog"]) == 0.0


def test_chair_counts_what_is_not_there() -> None:
    """Rohrbach et al. 2018, §3: mentions against annotated objects; two-word names win over their parts."""
    synonyms = {"dog": "dog", "puppy": "dog", "hot dog": "hot dog", "bench": "bench", "knife": "knife", "bus": "bus"}
    assert mentioned("Two puppies eat hot dogs on benches; knives, buses.", synonyms) == [
        "dog", "hot dog", "bench", "knife", "bus",
    ]  # fmt: skip
    wrong, total = chair(["A dog on a bench.", "A hot dog.", ""], [{"dog"}, {"hot dog"}, set()], synonyms)
    assert (wrong, total) == ([1, 0, 0], [2, 1, 0])
