"""What the readers' tests look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chiasm.core.errors import ChiasmError
from chiasm.core.samples import Dataset, Sample
from chiasm.processing.pictures import read_picture


def texts(sample: Sample) -> list[str]:
    return [f"{m.role}: {m.text}" for m in sample.conversation.messages]


def sizes(sample: Sample) -> list[tuple[int, int]]:
    return [read_picture(part.source).size for part in sample.conversation.images()]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def code_of(dataset: Dataset, index: int) -> str:
    with pytest.raises(ChiasmError) as caught:
        dataset[index]
    return caught.value.code
