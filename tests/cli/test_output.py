"""What goes to standard output."""

from __future__ import annotations

import json
import os

import pytest

from chiasm.cli.output import emit


def test_a_file_whose_name_is_not_utf8_is_told_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    path = b"/\xff\xfe \xc3\xbc.png"
    emit({"path": os.fsdecode(path)})
    told = capsys.readouterr().out
    assert "ü" in told and os.fsencode(json.loads(told)["path"]) == path
