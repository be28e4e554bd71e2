"""Reading users' copies of published data sets: files found by pattern, rows turned into items, bad rows told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.core.errors import ChiasmError, DataError
from chiasm.core.samples import Place
from chiasm.data.pictures import PictureFinder
from chiasm.data.rows import Fault, blank
from chiasm.data.stamps import digest_of, file_digest
from chiasm.data.strict_json import parse_json
from chiasm.evaluation.metrics.choices import LETTERS
from chiasm.evaluation.protocol import Item, Items, Source, ask

SHORT = "Answer the question using a single word or phrase."
BY_LETTER = "Answer with the option's letter from the given choices directly."
Rows = Iterable[tuple[str | int, Mapping[str, Any]]]
Make = Callable[[str, Mapping[str, Any]], Item | Iterable[Item]]


def folder_of(source: Source) -> Path:
    """The folder of a task that reads one."""
    assert source.folder is not None
    return Path(source.folder)


def find(source: Source, *patterns: str) -> Path:
    """The one file of a folder that fits: the first pattern with a hit counts.

    Args:
        source: its folder, or the file itself; `{split}` in a pattern stands for its split.
        patterns: of names below the folder, best first.

    Raises:
        DataError: none fits, or a pattern fits several.
    """
    root = folder_of(source)
    if root.is_file():
        return root
    for pattern in patterns:
        spelled = re.sub(r"\*{2,}(?!/)", "*", pattern.replace("{split}", source.split or "*"))
        found = sorted(root.glob(spelled))
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:5])
            raise DataError(
                "format_ambiguous", f"{source.folder} holds {len(found)} files {pattern}: {names}", hint="--split"
            )
        if found:
            return found[0]
    raise DataError("file_missing", f"{source.folder} holds no {' and no '.join(patterns)}")


def document(path: Path) -> Any:
    """A JSON file's content."""
    return parse_json(path.read_bytes(), str(path))


def listed(path: Path) -> Rows:
    """The records of a JSON list, or of JSON lines, by number."""
    data = path.read_bytes()
    if data.lstrip()[:1] == b"[":
        yield from enumerate(parse_json(data, str(path)))
        return
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, {"": "no JSON"}


def build(path: Path, rows: Rows, make: Make, source: Source) -> Items:
    """Items of a file's rows.

    Args:
        path: where the rows stand, for places and the fingerprint.
        rows: (name, record).
        make: (name, record) → an item or several; raises a `ChiasmError`, or `KeyError` for a missing field.
        source: for its limit.

    Returns:
        The items; rows that make none are faults with a code.
    """
    items: list[Item] = []
    faults: list[Fault] = []
    for name, row in rows:
        if source.limit is not None and len(items) >= source.limit:
            break
        try:
            made = make(str(name), row)
            items += [made] if isinstance(made, Item) else list(made)
        except ChiasmError as error:
            faults.append(Fault(Place(path.name, name), error.code, error.what))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            what = f"the row lacks {error}" if isinstance(error, KeyError) else f"the row is malformed: {error}"
            faults.append(Fault(Place(path.name, name), "row_malformed", what))
    digest = digest_of(*(file_digest(each) for each in ([path] if path.is_file() else [])), path.name)
    return Items(items=items[: source.limit], faults=faults, fingerprint=digest)


def asked(text: Any) -> str:
    """A question's words.

    Raises:
        DataError: none is visible.
    """
    words = str(text or "").strip()
    if blank(words):
        raise DataError("question_empty", "the row has no question")
    return words


def answered(references: Any) -> tuple[str, ...]:
    """A row's accepted answers.

    Raises:
        DataError: there is none, as in a hidden test set.
    """
    given = [references] if isinstance(references, (str, int, float)) else list(references or ())
    texts = tuple(str(each.get("answer", "") if isinstance(each, Mapping) else each) for each in given)
    if not any(text.strip() for text in texts):
        raise DataError("references_missing", "the row has no accepted answer")
    return texts


def question(key: str, picture: Any, text: Any, references: Any, *, ending: str = SHORT, **settings: Any) -> Item:
    """An open question about a picture, answered in few words."""
    words = f"{asked(text)}\n{ending}" if ending else asked(text)
    return Item(key=key, conversation=ask(picture, words), references=answered(references), **settings)


def choice(key: str, picture: Any, text: Any, options: Sequence[Any], answer: str, **settings: Any) -> Item:
    """A question with options, answered by letter.

    Raises:
        DataError: fewer than two options, or an answer that is none of their letters.
    """
    texts = tuple(str(option) for option in options)
    if len(texts) < 2 or answer not in LETTERS[: len(texts)] or len(answer) != 1:
        raise DataError("references_missing", f"the answer {answer!r} is none of {len(texts)} options")
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, texts, strict=False))
    words = f"{asked(text)}\n{lines}\n{BY_LETTER}"
    return Item(key=key, conversation=ask(picture, words), references=(answer,), options=texts, **settings)


def finder(path: Path, *names: str) -> PictureFinder:
    """Pictures beside a file, in folders of the usual names or in `names`."""
    return PictureFinder.beside(path, None, names)


def parquet_rows(folder: Path, pattern: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a data set's Parquet files, in order."""
    import pyarrow.parquet as pq

    for path in sorted(folder.glob(pattern)):
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=64):
            for row in batch.to_pylist():
                yield f"{path.name}:{number}", row
                number += 1
