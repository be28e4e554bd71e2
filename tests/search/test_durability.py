"""`chiasm index add` that is killed, and the order of its calls to the kernel."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chiasm.cli import main
from chiasm.search.index import PictureIndex

Start = Callable[..., "subprocess.Popen[str]"]


def acks(text: str) -> set[str]:
    return set(re.findall(r"^ACK ([0-9a-f]{32})$", text, re.MULTILINE))


def test_whatever_was_acknowledged_is_found_after_kill_9(
    tmp_path: Path,
    pictures: Path,
    tiny_folder: Callable[[str], Path],
    chiasm_process: Start,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, index = tiny_folder("clip"), tmp_path / "index"
    process = chiasm_process("index", "add", index, pictures, "--model", model)
    assert process.stdout is not None
    first = process.stdout.readline()  # of the first 32
    process.send_signal(signal.SIGKILL)
    told = acks(first + process.stdout.read())
    process.wait(30)
    assert told
    assert told <= set(PictureIndex(index).known())
    assert main(["index", "add", str(index), str(pictures)]) == 0
    everything = acks(capsys.readouterr().out)
    assert told <= everything and len(everything) == 40 == len(PictureIndex(index))
    assert main(["search", str(index), "a picture", "--limit", "100", "--json"]) == 0
    assert {hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]} == everything


def test_files_are_on_disk_before_they_are_acknowledged(
    tmp_path: Path, pictures: Path, tiny_folder: Callable[[str], Path], chiasm_process: Start
) -> None:
    if shutil.which("strace") is None:
        if os.environ.get("CHIASM_CI") or os.environ.get("CI"):
            pytest.fail("strace is missing: apt-get install strace")
        pytest.skip("needs strace")
    index, calls = tmp_path / "index", tmp_path / "calls"
    tracer = [
        "strace",
        "-f",
        "-qq",
        "-y",
        "-s",
        "200",
        "-o",
        str(calls),
        "-e",
        "trace=write,pwrite64,writev,fsync,rename,linkat",
    ]
    process = chiasm_process("index", "add", index, pictures, "--model", tiny_folder("clip"), before=tracer)
    out, err = process.communicate(timeout=300)
    assert len(acks(out)) == 40, err
    unsettled: set[str] = set()
    acknowledged = writes = 0
    for line in calls.read_text(errors="replace").splitlines():
        written = re.search(r"\b(?:write|pwrite64|writev)\(\d+<([^>]+)>", line)
        synced = re.search(r"\bfsync\(\d+<([^>]+)>", line)
        if "ACK " in line and written:
            assert not unsettled, f"acknowledged before {unsettled} were on disk"
            acknowledged += 1
        elif written and written[1].startswith(str(index / "pictures.lance")):
            # It may be renamed before it is synced, so its folder stands for it, which is synced after its files.
            unsettled.add(str(Path(written[1]).parent))
            writes += 1
        elif synced:
            unsettled.discard(synced[1])
    assert acknowledged == 40 and writes >= 4
