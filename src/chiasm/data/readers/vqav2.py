"""VQA v2 (Goyal et al. 2017): a file of questions and, but for test sets, one of annotations beside it.

One row a question. `answers` holds what all annotators said; the turn that is learned is `multiple_choice_answer`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, ImagePart, Message, TextPart
from chiasm.core.samples import Place
from chiasm.data.formats import Layout, Options
from chiasm.data.pictures import PictureFinder
from chiasm.data.readers.coco import opening, subset_of
from chiasm.data.readers.pairs import answer_text
from chiasm.data.rows import Content, Fault, Rows
from chiasm.data.stamps import digest_of, file_digest
from chiasm.data.strict_json import parse_json


class VqaRows(Rows):
    """The questions of one file, joined with the annotations of another."""

    def __init__(self, path: Path, options: Options) -> None:
        questions = _questions_file(path)
        annotations = _annotations_file(questions)
        document = parse_json(questions.read_bytes(), str(questions))
        rows = document.get("questions")
        if not isinstance(rows, list) or not any(map(_is_question, rows)):
            raise DataError("format_unknown", f"{questions} has no list of questions with a question_id each")
        faults = [
            Fault(Place(str(questions), f"question {at}"), "row_malformed", "no question with a question_id")
            for at, row in enumerate(rows)
            if not _is_question(row)
        ]
        rows = list(filter(_is_question, rows))
        self.path, self.name = questions, questions.stem
        self.subset = str(document.get("data_subtype") or "")
        self._find = PictureFinder.beside(questions, options.images, [self.subset, *subset_of(questions)])
        self._answers: dict[Any, dict[str, Any]] | None = None
        digests = [file_digest(questions)]
        if annotations is not None:
            listed = parse_json(annotations.read_bytes(), str(annotations)).get("annotations") or []
            self._answers = {each["question_id"]: each for each in listed if _is_question(each)}
            digests.append(file_digest(annotations))
            for row in [row for row in rows if row["question_id"] not in self._answers]:
                place = Place(str(questions), row["question_id"])
                faults.append(Fault(place, "answer_missing", f"{annotations.name} has no answer to it"))
            rows = [row for row in rows if row["question_id"] in self._answers]
        self._rows, self.faults = rows, tuple(faults)
        self.fingerprint = digest_of("vqa", *digests)

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, index: int) -> Place:
        """Where row `index` stands: the questions' file and the question's id."""
        return Place(str(self.path), self._rows[index]["question_id"])

    def key(self, index: int) -> str:
        """The file's name and the question's id."""
        return f"{self.name}/{self._rows[index]['question_id']}"

    def content(self, index: int) -> Content:
        """Row `index`."""
        row = self._rows[index]
        turns = [
            Message("user", (ImagePart(self._picture(row.get("image_id"))), TextPart(str(row.get("question", "")))))
        ]
        found: dict[str, Any] = {"id": row["question_id"], "image_id": row.get("image_id")}
        if self._answers is not None:
            given = self._answers[row["question_id"]]
            answers = [answer_text(each) for each in given.get("answers") or []]
            best = given.get("multiple_choice_answer") or (Counter(answers).most_common(1)[0][0] if answers else "")
            turns.append(Message("assistant", (TextPart(str(best)),)))
            found |= {
                "answers": answers or [best],
                "kind": given.get("answer_type") or given.get("question_type") or "",
            }
        return Content(conversation=Conversation(tuple(turns)), annotations=found)

    def _picture(self, image: Any) -> Any:
        if isinstance(image, int):
            names = [f"COCO_{self.subset}_{image:012d}.jpg", f"{image:012d}.jpg", f"{image}.jpg", f"{image}.png"]
        else:
            names = [str(image), f"{image}.jpg", f"{image}.png"]
        sources = [self._find(name) for name in names]
        return next((source for source in sources if isinstance(source, str) and os.path.exists(source)), sources[0])


def _is_question(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("question_id"), (int, str))


def _is_questions(path: Path) -> bool:
    head = opening(path)
    return re.search(rb'"questions"\s*:\s*\[', head) is not None and b'"question_id"' in head


def _is_annotations(path: Path) -> bool:
    head = opening(path)
    return re.search(rb'"annotations"\s*:\s*\[', head) is not None and b'"question_id"' in head


def _questions_file(path: Path) -> Path:
    if path.is_file() and _is_questions(path):
        return path
    folder = path if path.is_dir() else path.parent
    found = [each for each in sorted(folder.glob("*.json")) if _is_questions(each)]
    if path.is_file() and len(found) > 1:
        found = [each for each in found if subset_of(each) == subset_of(path)]
    if len(found) != 1:
        names = ", ".join(each.name for each in found) or "none"
        raise DataError(
            "format_ambiguous", f"{folder} holds {len(found)} files of questions ({names})", hint="name one"
        )
    return found[0]


def _annotations_file(questions: Path) -> Path | None:
    found = [each for each in sorted(questions.parent.glob("*.json")) if _is_annotations(each)]
    subset = subset_of(questions)
    same = [each for each in found if subset_of(each) == subset] if subset else found
    if len(same) > 1:
        names = ", ".join(each.name for each in same)
        raise DataError("format_ambiguous", f"{len(same)} files could hold the answers to {questions.name}: {names}")
    return same[0] if same else None


def _fits(path: Path) -> bool:
    if path.is_dir():
        return any(_is_questions(each) for each in sorted(path.glob("*.json"))[:20])
    return _is_questions(path) or _is_annotations(path)


READERS = (Layout(name="VQAv2", fits=_fits, open=VqaRows),)
