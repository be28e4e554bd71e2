"""Short answers: VQA accuracy with the official normalisation (Goyal et al. 2017), exact match, GQA.

The normalisation is that of the VQA challenge's server as evaluation suites run it: punctuation, number words,
articles and contractions. Two of its quirks are kept because published scores have them: a full stop between digits
stays, and at most 32 full stops are taken away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERS = ("none zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, words in enumerate(_NUMBERS) for word in words.split()}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTIONS = (
    "'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't "
    "needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll "
    "somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd "
    "there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're "
    "what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't "
    "would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've"
)
# a word with one of its apostrophes left out → the word
_APOSTROPHES = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTIONS.split() for at, mark in enumerate(word) if mark == "'"
}
_APOSTROPHES |= {"somebody'd": "somebodyd"}
_APOSTROPHES |= dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at")


def normalised(answer: str) -> str:
    """An answer as the VQA challenge compares it."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _unpunctuated(re.sub(r"[\n\t]", " ", text).strip())
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def _unpunctuated(text: str) -> str:
    glued = re.search(r"(?<=\d),+(?=\d)", text) is not None
    bare = text
    for mark in _PUNCTUATION:
        bare = bare.replace(mark, "" if glued or f"{mark} " in text or f" {mark}" in text else " ")
    return re.sub(r"\.(?!\d)", "", bare, count=32)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """How many people gave an answer: min(matches / 3, 1), averaged over leaving each person out.

    Args:
        answer: the model's.
        references: what people answered, one each; usually ten.

    Returns:
        0 to 1; 0 where there are no references.
    """
    if not references:
        return 0.0
    given = normalised(answer)
    same = [normalised(reference) == given for reference in references]
    total = sum(same)
    return sum(min(1.0, (total - own) / 3) for own in same) / len(same)


def plain(text: str) -> str:
    """A text in lower case without outer white space, a leading article and a final full stop."""
    return re.sub(r"^(a|an|the|some)\s+", "", text.strip().lower().rstrip(".!").strip())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the answer equals a reference, case, a leading article and the final full stop aside; else 0."""
    return float(bool(plain(answer)) and plain(answer) in {plain(reference) for reference in references})


def gqa_match(answer: str, reference: str) -> float:
    """GQA's accuracy of one answer (Hudson & Manning 2019, §4): equality in lower case, white space and stop aside."""
    return float(answer.strip().lower().rstrip(".").strip() == reference.strip().lower())
