"""`chiasm curate`: captions written, judged, kept or left out (CapFilt; Li et al. 2022, "BLIP", §3.3).

Work in progress lies in a hidden folder beside the new data: a journal of what the models said, chunk by chunk. The
same command goes on with it after any stop; thresholds and format aren't part of it, so they may change.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from chiasm.cli.bulk import BULK, Bulk, Work
from chiasm.cli.data import OPENING, Opening
from chiasm.cli.options import LOADING, Loading, Sampling
from chiasm.cli.output import UsageError, emit, note, progress, say
from chiasm.core.errors import CapabilityError, ConfigError, DataError
from chiasm.core.files import write_text

if TYPE_CHECKING:
    from chiasm.cli.curating import Rows
    from chiasm.core.samples import Dataset
    from chiasm.data.curation import Decision, Thresholds
    from chiasm.evaluation.journal import Journal
    from chiasm.models.model import Model

CHUNK = 8  # rows of a forward pass
FOLDER = "curation"  # inside the new data: decisions, settings, sheet
TOGETHER = ("folder", "webdataset")  # where a picture's captions are one row, because rows don't share pictures
MATCH = 0.5  # a matching probability's threshold where none is given


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Writing(Sampling):
    """How captions are written: from a nucleus, which finds more than the likeliest one (Li et al. 2022, §4.4)."""

    max_new_tokens: int = 40
    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0

    def checked(self) -> dict[str, Any]:
        """As `Sampling.checked`, without the seed; beams need no sampling."""
        beams = self.num_beams > 1
        plain = Sampling(
            max_new_tokens=self.max_new_tokens,
            temperature=0.0 if beams and self.temperature == Writing.temperature else self.temperature,
            top_p=1.0 if beams else self.top_p,
            num_beams=self.num_beams,
            stop=self.stop,
        )
        return {name: value for name, value in plain.checked().items() if name != "seed"}


WRITING = Writing()


def curate(
    data: str,
    /,
    *,
    captioner: str,
    judge: Annotated[str, Parameter(name="--filter")],
    out: Path,
    format: str = "jsonl",
    threshold: float | None = None,
    synthetic_threshold: float | None = None,
    prompt: str | None = None,
    truncate: bool = False,
    examples: int = 12,
    forecast: bool = False,
    resume: bool = False,
    writing: Writing = WRITING,
    opening: Opening = OPENING,
    bulk: Bulk = BULK,
    options: Loading = LOADING,
) -> None:
    """Clean captions: chiasm curate DATA --captioner MODEL --filter MODEL --out DATA2.

    Args:
        data: Pictures with captions, or without: a file, a folder, a pattern or a name, as for chiasm data check.
        captioner: Model that writes a caption of every picture.
        judge: Model that scores captions: by its matching head, or by the cosine of its embeddings.
        out: Folder of the new data; appears whole, or not at all.
        format: jsonl, csv, tsv, webdataset, parquet, messages, llava, coco or folder.
        threshold: Least score of a caption that is kept; by default 0.5 of a matching head, and of cosines what 95 % of
            wrong pairs of this data stay below.
        synthetic_threshold: Least score of a caption that was written; by default the same.
        prompt: What the captioner is asked, or the words that its captions begin with.
        truncate: The filter reads the beginning of captions that are longer than it takes; otherwise they are reported.
        examples: Examples of each outcome on the sheet.
        forecast: Only time the first rows and say how long all take; nothing is written.
        resume: A curation that is finished already is told again instead of refused.
    """
    from chiasm.cli.curating import Rows

    settings = {**writing.checked(), "seed": writing.seed}
    bulk.checked()
    _check(out, format, examples, resume)
    rows = Rows(data, opening)
    dataset = rows.open()
    if not len(dataset):
        raise DataError("data_empty", f"{data} has 0 rows")
    by, models = roles(captioner, judge, options)
    limits = _limits(by, threshold, synthetic_threshold)
    stages = Stages(rows, prompt, settings, by, truncate, captioner, judge, bulk, options)
    asked, finished = stages.asked(dataset, models), out / FOLDER / "settings.json"
    if finished.is_file():
        summary = json.loads(finished.read_text("utf-8"))
        _same(summary["settings"], asked, out)
    elif forecast:
        _forecast(stages, len(dataset), options)
        return
    else:
        with workspace(out, asked) as journal:
            decisions, limits = stages.decisions(dataset, journal, limits)
            summary = _write(dataset, decisions, limits, asked, out, format, examples)
    _tell(summary, out, options)


def _check(out: Path, format: str, examples: int, resume: bool) -> None:
    from chiasm.data.convert import writers

    if examples < 0:
        raise UsageError(f"--examples is {examples}, the least is 0")
    if format not in writers():
        raise UsageError(f"--format is {format!r}, known are {', '.join(writers())}")
    if os.path.lexists(out) and not (resume and (out / FOLDER / "settings.json").is_file()):
        raise DataError("out_exists", f"{out} is there already", hint="another --out, or remove it first")


def roles(captioner: str, judge: str, options: Loading) -> tuple[str, list[str]]:
    """Whether both models can do their part, before a weight is read.

    Returns:
        How the filter scores, ``match`` or ``cosine``; and a digest of each model's files.

    Raises:
        CapabilityError: the captioner only judges, or the filter can't.
    """
    from chiasm.core.protocols import Answering
    from chiasm.data.stamps import digest_of, file_digest
    from chiasm.weights.load import known
    from chiasm.weights.meta import build_on_meta

    able, digests = [], []
    for source in (captioner, judge):
        family, config, folder = known(source, True if options.offline else None)
        can = tuple(getattr(config, "capabilities", family.capabilities))
        able.append((family.name, can))
        if source == captioner and "generate" in can and isinstance(build_on_meta(config), Answering):
            able[0] = family.name, tuple(each for each in can if each != "generate")  # it chooses among answers
        files = sorted(path for path in folder.iterdir() if path.is_file())
        digests.append(digest_of(*(word for path in files for word in (path.name, file_digest(path)))))
    for name, can, needed, part in (
        (captioner, able[0], ("generate",), "captioner, which writes"),
        (judge, able[1], ("match", "embed"), "filter, which matches or embeds pictures and texts"),
    ):
        if not set(needed) & set(can[1]):
            what = f"{name} can't be the {part}: its {can[0]} checkpoint has {', '.join(can[1]) or 'nothing'}"
            raise CapabilityError("capability_missing", what, hint="chiasm models")
    return "match" if "match" in able[1][1] else "cosine", digests


@dataclass(frozen=True, slots=True)
class Stages:
    """Both stages: write, judge."""

    rows: Rows
    prompt: str | None
    settings: dict[str, Any]
    by: str
    truncate: bool
    captioner: str
    judge: str
    bulk: Bulk
    options: Loading
    seconds: dict[str, float] = field(default_factory=dict)
    loaded: dict[str, Model | None] = field(default_factory=dict)  # one at a time

    def asked(self, dataset: Dataset, weights: Sequence[str]) -> dict[str, Any]:
        """What the models' answers depend on; `weights` are digests of both models' files."""
        return {
            "data": self.rows.spec, "fingerprint": dataset.fingerprint, "rows": len(dataset),
            "captioner": self.captioner, "filter": self.judge, "weights": weights, "by": self.by,
            "prompt": self.prompt, "writing": self.settings, "truncate": self.truncate, "chunk": CHUNK,
        }  # fmt: skip

    def decisions(
        self, dataset: Dataset, journal: Journal, limits: Thresholds | None
    ) -> tuple[list[Decision], Thresholds]:
        """Every row's decision, what the journal lacks computed; and the thresholds, found where none are given."""
        from chiasm.data.curation import Thresholds, calibrated, decide

        written = self.write([str(row) for row in range(len(dataset))], journal)
        asked = self.questions(written)
        judged = dict(zip(asked, self.judged(list(asked.values()), journal), strict=True))
        if limits is None:
            level = calibrated([seen["wrong"] for seen in judged.values() if seen.get("wrong") is not None])
            limits = Thresholds(by=self.by, original=level, synthetic=level)
        return decide(dataset, written, [judged.get(row, {}) for row in range(len(written))], limits), limits

    def write(self, items: Sequence[str], journal: Journal | None) -> list[dict[str, Any]]:
        """The first stage: see `curating.Written`."""
        from chiasm.cli.curating import Written

        settings = {name: value for name, value in self.settings.items() if name != "seed"}
        work = Written(self.rows, self.prompt, settings, self.settings["seed"])
        return self._stage("captions", self.captioner, work, items, journal)

    def judged(self, items: Sequence[str], journal: Journal | None) -> list[dict[str, Any]]:
        """The second stage: see `curating.Judged`."""
        from chiasm.cli.curating import Judged

        return self._stage("scores", self.judge, Judged(self.rows, self.by, self.truncate), items, journal)

    @staticmethod
    def questions(written: Sequence[dict[str, Any]]) -> dict[int, str]:
        """What is judged: row → its item of the second stage."""
        return {
            row: json.dumps([row, [*told["originals"], *filter(None, [told["synthetic"]])]], ensure_ascii=False)
            for row, told in enumerate(written)
            if "code" not in told
        }

    def _stage(
        self, name: str, source: str, work: Work, items: Sequence[str], journal: Journal | None
    ) -> list[dict[str, Any]]:
        chunks = {at // CHUNK: list(items[at : at + CHUNK]) for at in range(0, len(items), CHUNK)}
        done = {} if journal is None else {n: journal[f"{name} {n}"] for n in chunks if f"{name} {n}" in journal}
        left = {number: chunk for number, chunk in chunks.items() if number not in done}
        if left:
            if done:
                note(f"{name}: {len(done) * CHUNK:,} rows are there already")
            if source not in self.loaded:
                self.loaded.clear()
                self.loaded[source] = self.bulk.load(source, self.options)
            model, show = self.loaded[source], progress(f"rows, {name}")
            begun = time.perf_counter()
            for number, results in self.bulk.each(work, model, source, self.options, left):
                done[number] = results
                if journal is not None:
                    journal.add({f"{name} {number}": results})
                show(min(len(done) * CHUNK, len(items)), len(items))
            self.seconds[name] = time.perf_counter() - begun
        return [json.loads(result) for number in chunks for result in done[number]]


@contextmanager
def workspace(out: Path, asked: dict[str, Any]) -> Iterator[Journal]:
    """The journal of a curation in progress, held by this process alone; removed when the curation is whole.

    Raises:
        ConfigError: another curation is in progress there, or another process works on it.
    """
    from chiasm.evaluation.journal import Journal

    folder = out.parent / f".{out.name}.curating"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError("curation_running", f"another process is curating into {out}") from None
        if path.is_file():
            _same(json.loads(path.read_text("utf-8")), asked, folder)
        else:
            write_text(path, json.dumps(asked, ensure_ascii=False, indent=1))
        yield Journal(folder / "journal.jsonl")
        shutil.rmtree(folder)


def _same(then: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    differing = [name for name, value in now.items() if then.get(name) != json.loads(json.dumps(value))]
    if differing:
        what = f"{where} holds another curation; it differs in {', '.join(differing)}"
        raise ConfigError("curation_differs", what, hint=f"another --out, or remove {where}")


def _limits(by: str, original: float | None, synthetic: float | None) -> Thresholds | None:
    from chiasm.data.curation import Thresholds

    if original is None and by == "match":
        original = MATCH
    if original is None:
        if synthetic is not None:
            raise UsageError("--synthetic-threshold of cosines needs --threshold, too", hint="--threshold 0.25")
        return None
    return Thresholds(by=by, original=original, synthetic=original if synthetic is None else synthetic)


def _forecast(stages: Stages, rows: int, options: Loading) -> None:
    """Two chunks of each stage: the first one warms up."""
    first, second = ([str(row) for row in range(at, min(at + CHUNK, rows))] for at in (0, CHUNK))
    timed = second or first
    written = stages.write(first, None)
    if second:
        written = stages.write(second, None)
    asked = [item for _, item in sorted(stages.questions(written).items())]
    offset = int(timed[0])
    items = [json.dumps([row + offset, texts], ensure_ascii=False) for row, texts in map(json.loads, asked)]
    stages.judged(items, None)
    stages.judged(items, None)
    each = {name: seconds / len(timed) for name, seconds in stages.seconds.items()}
    total = rows * sum(each.values()) / (stages.bulk.workers if stages.bulk.engine == "ray" else 1)
    if options.json:
        emit({"forecast": {"rows": rows, "seconds_per_row": each, "seconds": round(total, 1)}})
        return
    say(f"{rows:,} rows: about {total / 60:,.1f} minutes, "
        + ", ".join(f"{name} {1000 * value:,.0f} ms a row" for name, value in each.items()))  # fmt: skip


def _write(
    dataset: Dataset, decisions: list[Decision], limits: Thresholds, asked: dict[str, Any], out: Path, format: str,
    examples: int,
) -> dict[str, Any]:  # fmt: skip
    """The new data with its decisions, settings and sheet.

    Returns:
        The summary, as the settings file has it.
    """
    from chiasm.data.convert import convert
    from chiasm.data.curation import Curated, count, write_decisions
    from chiasm.data.curation_sheet import sheet

    kept = Curated(dataset, decisions, together=format in TOGETHER)
    if not len(kept):
        scores = [caption.score for decision in decisions for caption in decision.captions]
        best = f"the best score is {max(scores):g}" if scores else "no caption could be judged"
        what = f"0 captions of {len(dataset)} rows reach {limits.original:g} (original) or {limits.synthetic:g} "
        raise DataError("curation_empty", f"{what}(written); {best}", hint="the same command with --threshold LESS")
    captions = sum(caption.kept for decision in decisions for caption in decision.captions)
    summary = {
        "format": format, "rows": len(dataset), "kept": captions, "decisions": count(decisions),
        "thresholds": {"by": limits.by, "original": limits.original, "synthetic": limits.synthetic},
        "settings": json.loads(json.dumps(asked)),
        "bad": [decision.to_json() for decision in decisions if decision.code],
    }  # fmt: skip
    about = {"data": asked["data"], "captioner": asked["captioner"], "filter": asked["filter"], "rows": len(decisions)}

    def beside(folder: Path) -> None:
        place = folder / FOLDER
        place.mkdir()
        write_decisions(place / "decisions.jsonl", decisions)
        page = sheet(dataset, decisions, limits, about, examples)
        write_text(place / "sheet.html", page)
        write_text(place / "settings.json", json.dumps(summary, ensure_ascii=False, indent=1) + "\n")

    done = convert(kept, out, format, progress=progress("rows written"), beside=beside)
    for name, rows in done.left_out.items():
        note(f"left out: {name} of {rows:,} rows, for which {format} has no room")
    return summary


def _tell(summary: dict[str, Any], out: Path, options: Loading) -> None:
    if options.json:
        emit({"out": str(out), **summary})
        return
    for row in summary["bad"][:20]:
        note(f"left out: {row['source']}, row {row['place']}: {row['code']}: {row['reason']}")
    limits, counts = summary["thresholds"], summary["decisions"]
    say(f"{out}: {summary['kept']:,} captions of {summary['rows']:,} rows kept, by {limits['by']} of at least "
        f"{limits['original']:g} (original) and {limits['synthetic']:g} (written)")  # fmt: skip
    say(", ".join(f"{name} {number:,}" for name, number in counts.items()))
    say(str(out / FOLDER / "sheet.html"))
