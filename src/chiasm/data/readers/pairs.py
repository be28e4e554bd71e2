"""Rows of a table: a picture with a caption, a label, a sound, or a question and its answers, by the columns' names.

Names are compared without case. Where two columns could play one role the row is ambiguous and the caller says which
(`--column caption=alt`); nothing is guessed between two candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.messages import Conversation, ImagePart, Message, Part, TextPart
from chiasm.data.formats import Reading, Shape, annotations_of
from chiasm.data.readers.conversations import listed
from chiasm.data.rows import Content, blank
from chiasm.data.slots import Slots

ROLES: dict[str, tuple[str, ...]] = {
    "image": (
        "image", "images", "img", "picture", "photo", "image_path", "img_path", "image_file", "filepath", "file_path",
        "path", "file", "file_name", "filename", "jpg", "png", "image_bytes", "image_base64",
    ),
    "question": ("question", "query", "prompt", "instruction", "problem"),
    "caption": (
        "caption", "captions", "text", "title", "alt", "alt_text", "description", "sentence", "sentences", "txt",
        "raw_caption",
    ),
    "answer": ("answer", "answers", "response", "output", "completion", "target", "multiple_choice_answer", "solution"),
    "choices": ("choices", "options"),
    "label": ("label", "class", "class_name", "category", "cls"),
    "sound": ("sound", "audio", "sound_path", "audio_path", "wav"),
}  # fmt: skip
_ADDRESS = ("image_url", "img_url", "url")


def roles_of(names: Mapping[str, Any], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which column plays which role.

    Args:
        names: the columns.
        given: role → column, as the caller named them.

    Raises:
        DataError: columns_ambiguous, or column_missing for one the caller named that isn't there.
    """
    given = given or {}
    seen = ", ".join(map(repr, names))
    for role, column in given.items():
        if role not in ROLES:
            raise DataError("column_missing", f"{role!r} is no role of a column; roles are {', '.join(ROLES)}")
        if column not in names:
            raise DataError("column_missing", f"no column {column!r}; the columns are {seen}")
    roles = dict(given)
    for role, usual in ROLES.items():
        if role in roles or (role == "caption" and "question" in roles):
            continue
        found = [name for name in names if name.lower() in usual and name not in roles.values()]
        if role == "image" and not found:
            found = [name for name in names if name.lower() in _ADDRESS]
        if len(found) > 1:
            raise DataError(
                "columns_ambiguous",
                f"columns {' and '.join(map(repr, found))} could each be the {role}; the columns are {seen}",
                hint=f"--column {role}={found[0]}",
            )
        if found:
            roles[role] = found[0]
    return roles


def _fits(record: Mapping[str, Any]) -> bool:
    lowered = {name.lower() for name in record}
    has_picture = lowered & {*ROLES["image"], *_ADDRESS}
    has_words = lowered & {name for role in ("caption", "question", "label", "sound") for name in ROLES[role]}
    return bool(has_picture and has_words)


def _read(record: Mapping[str, Any], reading: Reading) -> Content:
    roles = roles_of(record, reading.columns)
    if "image" not in roles:
        raise DataError("column_missing", f"no column names a picture; the columns are {', '.join(map(repr, record))}")
    pictures = [reading.find(each) for each in listed(record[roles["image"]]) or [None]]
    kept = annotations_of(record, roles.values())
    if record.get(roles.get("sound", "")):
        kept["sound"] = reading.find(record[roles["sound"]])
    if "question" in roles:
        return _question(record, roles, pictures, kept)
    words = [str(each) for each in listed(record.get(roles.get("caption", ""))) if each is not None]
    label = record.get(roles["label"]) if "label" in roles else None
    if label is not None:
        kept["label"] = label
    parts: tuple[Part, ...] = tuple(ImagePart(picture) for picture in pictures)
    turns = [Message("user", parts)]
    if words or "caption" in roles:
        if all(blank(word) for word in words):
            raise DataError("caption_empty", f"the column {roles['caption']!r} holds no visible character")
        turns.append(Message("assistant", (TextPart(words[0]),)))
    elif label is not None:
        turns.append(Message("assistant", (TextPart(str(label)),)))
    return Content(conversation=Conversation(tuple(turns)), captions=tuple(words), annotations=kept)


def _question(
    record: Mapping[str, Any], roles: Mapping[str, str], pictures: list[Any], kept: dict[str, Any]
) -> Content:
    question = record[roles["question"]]
    if not isinstance(question, str) or blank(question):
        raise DataError("question_empty", f"the column {roles['question']!r} holds no visible character")
    if "<image>" in question:
        slots = Slots(pictures)
        parts = slots.parts(question)
        slots.check()
    else:
        parts = (*(ImagePart(picture) for picture in pictures), TextPart(question))
    turns = [Message("user", parts)]
    choices = [str(each) for each in listed(record.get(roles.get("choices", "")))]
    answers = [answer_text(each) for each in listed(record.get(roles.get("answer", "")))]
    if choices:
        kept["choices"] = choices
        answers = [_chosen(answer, choices) for answer in answers]
    if answers:
        kept["answers"] = answers
        turns.append(Message("assistant", (TextPart(Counter(answers).most_common(1)[0][0]),)))
    if "label" in roles and record.get(roles["label"]) is not None:
        kept["label"] = record[roles["label"]]
    return Content(conversation=Conversation(tuple(turns)), annotations=kept)


def _chosen(answer: str, choices: list[str]) -> str:
    """The choice that a number from 0 stands for; anything else is the answer itself.

    Raises:
        DataError: there is no choice of that number.
    """
    if answer in choices or not answer.isdecimal():
        return answer
    if int(answer) >= len(choices):
        raise DataError("answer_missing", f"the answer is choice {answer}, the {len(choices)} choices count from 0")
    return choices[int(answer)]


def answer_text(value: Any) -> str:
    """One answer: a text, or VQA's `{"answer": …}`."""
    return str(value.get("answer", "")) if isinstance(value, Mapping) else str(value)


def _check(record: Mapping[str, Any], columns: Mapping[str, str]) -> None:
    if "image" not in roles_of(record, columns):
        raise DataError("column_missing", f"no column names a picture; the columns are {', '.join(map(repr, record))}")


READERS = (Shape(name="pairs", fits=_fits, read=_read, check=_check, general=True),)
