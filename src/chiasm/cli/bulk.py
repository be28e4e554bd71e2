"""Embedding, captioning and judging many pictures, here or on Ray Data: the same chunks, so the same results.

A chunk is what one forward pass takes. Ray sends chunks to processes that each hold the model (on one machine, or on
the cluster that ``RAY_ADDRESS`` names, where every path must be readable); results come back as they are ready.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from chiasm.cli.options import Loading
from chiasm.cli.output import UsageError
from chiasm.core.errors import ChiasmError, SourceError

if TYPE_CHECKING:
    from chiasm.models.model import Model

ENGINES = ("local", "ray")
AHEAD = 4  # chunks of a Ray task: what is lost when everything is killed
PROMPT = "Describe the picture in one sentence."
Work = Callable[["Model", list[str]], list[Any]]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Bulk:
    """Where many pictures are computed.

    Attributes:
        engine: Where to compute: local (this process) or ray (many processes, on one machine or a cluster).
        workers: Processes that hold the model, with --engine ray.
    """

    engine: str = "local"
    workers: int = 2

    def checked(self) -> Bulk:
        """These options.

        Raises:
            UsageError: an unknown engine, or no worker.
        """
        if self.engine not in ENGINES:
            raise UsageError(f"--engine is {self.engine!r}, known are {' and '.join(ENGINES)}")
        if self.workers < 1:
            raise UsageError(f"--workers is {self.workers}, the least is 1")
        return self

    def load(self, source: str, options: Loading, *, needed: bool = False) -> Model | None:
        """The model, where this process computes (or needs it anyway)."""
        return options.load(source) if needed or self.engine == "local" else None

    def run(
        self, work: Work, model: Model | None, source: str, options: Loading, pictures: Sequence[str], chunk: int
    ) -> list[Any]:
        """Compute something of every picture.

        Args:
            work: (model, paths) → one result a path; sent to other processes, so it must be picklable.
            model: from `load`.
            source: what the model is loaded from.
            options: how.
            pictures: paths.
            chunk: pictures computed together.

        Returns:
            The results, in order.

        Raises:
            ChiasmError: what `work` raised.
            SourceError: Ray isn't installed.
        """
        chunks = {at: list(pictures[at : at + chunk]) for at in range(0, len(pictures), chunk)}
        done = dict(self.each(work, model, source, options, chunks))
        return [result for at in chunks for result in done[at]]

    def each(
        self, work: Work, model: Model | None, source: str, options: Loading, chunks: Mapping[int, list[str]]
    ) -> Iterator[tuple[int, list[Any]]]:
        """Compute chunk after chunk; the caller can keep what is ready while the rest is computed.

        Args:
            work, model, source, options: as for `run`.
            chunks: number → items, strings that `work` understands.

        Yields:
            A chunk's number and its results; in order here, as they are ready on Ray.

        Raises:
            ChiasmError: what `work` raised.
            SourceError: Ray isn't installed.
        """
        if self.engine == "local":
            assert model is not None
            for number, items in chunks.items():
                yield number, work(model, items)
        elif chunks:
            yield from on_ray(work, source, options, chunks, self.workers)


BULK = Bulk()


def listed_pictures(paths: Sequence[str]) -> list[str]:
    """Paths with every folder replaced by the pictures in it and below, by name.

    Raises:
        ChiasmError: a folder without a picture.
    """
    from chiasm.data.pictures import SUFFIXES

    found: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        inside = sorted(str(p) for p in Path(path).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise ChiasmError("folder_no_pictures", f"{path} holds 0 pictures ({', '.join(SUFFIXES)})")
        found += inside
    return found


def on_ray(
    work: Work, source: str, options: Loading, chunks: Mapping[int, list[str]], workers: int
) -> Iterator[tuple[int, list[Any]]]:
    """`Bulk.each` on Ray Data; arguments as there."""
    try:
        ray: Any = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError:
        hint = "pip install 'chiasm[scale]'"
        raise SourceError("package_missing", "the package ray[data] is not installed", hint=hint) from None
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    started = not ray.is_initialized()
    if started:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if "RAY_ADDRESS" in os.environ:
            ray.init(**quiet)
        else:
            ray.init(num_cpus=workers, include_dashboard=False, **quiet)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = [{"number": number, "paths": paths} for number, paths in chunks.items()]
        blocks = min(len(rows), max(4 * workers, len(rows) // AHEAD))
        data = ray.data.from_items(rows, override_num_blocks=blocks).map(
            _Worker,
            fn_constructor_kwargs={"work": work, "source": source, "options": asdict(options)},
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(chunks))),
            num_cpus=1,
        )
        for row in data.iter_rows():
            if row["error"] is not None:
                raise _error(row["error"])
            yield int(row["number"]), list(row["results"])
    finally:
        if started:
            ray.shutdown()


class _Worker:
    """A process that holds the model."""

    def __init__(self, work: Work, source: str, options: dict[str, Any]) -> None:
        self.work = work
        self.failure: dict[str, str | None] | None = None
        try:
            self.model = Loading(**options).load(source)
        except ChiasmError as error:  # raised here, Ray would start the worker again and again
            self.failure = _described(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        results: list[Any] = []
        error = self.failure
        if error is None:
            try:
                results = self.work(self.model, [str(path) for path in row["paths"]])
            except ChiasmError as caught:
                error = _described(caught)
        return {"number": row["number"], "results": results, "error": error}


def _described(error: ChiasmError) -> dict[str, str | None]:
    return {"code": error.code, "what": error.what, "hint": error.hint}


def _error(told: dict[str, Any]) -> ChiasmError:
    return ChiasmError(told["code"], told["what"], hint=told["hint"])


def picture_vectors(model: Model, paths: list[str]) -> list[Any]:
    """One (E,) float32 array a picture."""
    return list(model.embed_images(paths).cpu().numpy())


@dataclass(frozen=True, slots=True)
class Captions:
    """Captions under one prompt (None: see `caption_prompt`) and one way of sampling."""

    prompt: str | None
    settings: dict[str, Any]

    def __call__(self, model: Model, paths: list[str]) -> list[Any]:
        """One mapping with `caption` and `finish_reason` a picture."""
        from chiasm.cli.ask import user_turn

        prompt = caption_prompt(model) if self.prompt is None else self.prompt
        replies = model.generate([[user_turn([path], prompt)] for path in paths], **self.settings)
        return [{"caption": reply.text.strip(), "finish_reason": reply.finish_reason} for reply in replies]


def caption_prompt(model: Model) -> str:
    """What a model is asked for a caption: nothing where the words would begin the caption itself (BLIP, CoCa)."""
    from chiasm.processing.fusion import FusionProcessor

    return "" if isinstance(model.processor, FusionProcessor) else PROMPT
