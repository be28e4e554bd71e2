"""The usual task: samples of some data sets, collated by a model's processor, minimised by an objective."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chiasm.core.errors import ConfigError
from chiasm.core.samples import Dataset
from chiasm.data.loader import BadRow, Loader, text_lengths
from chiasm.data.mixtures import Mixture
from chiasm.data.open import open_dataset
from chiasm.data.shuffling import Shuffled
from chiasm.models.model import Model
from chiasm.nn.lora import add_lora
from chiasm.recipes.run import Pretrained, Run, Source
from chiasm.recipes.running.show import show_sample
from chiasm.recipes.running.starting import take_over
from chiasm.recipes.running.task import Task, Tell
from chiasm.training.world import World
from chiasm.weights.load import load


def standard_task(run: Run, out: Path, world: World, tell: Tell) -> Task:
    """Put a run's parts together.

    Args:
        run: with model (or `init_from`), data, collate and objective.
        out: the run's folder.
        world: the processes; each gets its part of every batch.
        tell: takes lines for people.

    Raises:
        ConfigError: a part is missing, nothing learns, or the batch can't be cut.
    """
    if run.collate is None or run.objective is None:
        missing = "collate" if run.collate is None else "objective"
        raise ConfigError("setting_missing", f"the run names no {missing}", hint=f"--set {missing}=KIND")
    if None not in (run.objective.takes, run.collate.gives) and run.objective.takes != run.collate.gives:
        kinds = type(run.objective).__name__, type(run.collate).__name__
        what = f"{kinds[0]} learns from {run.objective.takes}, {kinds[1]} gives {run.collate.gives}"
        raise ConfigError("objective_mismatch", what, hint="another objective, or another collate")
    model = build_model(run, tell)
    module = model.module
    choose_trainable(module, run)
    objective = run.objective.build()
    parts = run.accumulate * world.size
    if run.batch_size % parts:
        what = f"a batch of {run.batch_size} can't be cut into {run.accumulate} parts for {world.size} processes"
        raise ConfigError("batch_ragged", what, hint=f"--set batch_size={run.batch_size // parts * parts or parts}")
    loader, features = _loader(run, model, out, world, tell)
    feed = LoaderFeed(loader, features)
    if hasattr(objective, "prepare"):  # momentum copies and queues are there before a checkpoint is read
        objective.prepare(module, sum(len(dataset) for dataset in loader.mixture.datasets))

    def finish(out: Path) -> None:
        loader.close()
        save_model(model, out, run)

    def show() -> list[Any]:
        return show_sample(model.processor, feed(0))

    return Task(module=module, objective=objective, feed=feed, finish=finish, show=show)


def build_model(run: Run, tell: Tell) -> Model:
    """The run's model, with the weights of `init_from` where there is one.

    Raises:
        ConfigError: neither a model nor a folder to start from.
    """
    if run.model is None:
        if run.init_from is None:
            raise ConfigError("setting_missing", "the run names no model", hint="--set model=Tiny, or init_from=FOLDER")
        return Pretrained(source=run.init_from).build(run.family, run.seed)
    model = run.model.build(run.family, run.seed)
    if run.init_from is not None:
        other = load(run.init_from, device="cpu", dtype="float32").module
        take_over(model.module, other, run.init_from, tell, run.inherit)
    return model


def choose_trainable(module: nn.Module, run: Run) -> None:
    """Let parameters learn as `learn`, `freeze` and `lora` say.

    Raises:
        ConfigError: a pattern matches nothing, or nothing learns.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in (*run.learn, *run.freeze, *(group.pattern for group in run.groups)):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError("pattern_malformed", f"{pattern!r} is no regular expression: {error}") from None
    for kind, patterns in (("learn", run.learn), ("freeze", run.freeze)):
        for pattern in patterns:
            if not any(re.search(pattern, name) for name in names):
                raise ConfigError("pattern_no_match", f"{kind} pattern {pattern!r} is found in 0 of {len(names)} names")
    for name, parameter in module.named_parameters():
        learns = any(re.search(pattern, name) for pattern in run.learn)
        parameter.requires_grad_(learns and not any(re.search(pattern, name) for pattern in run.freeze))
    if run.lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            add_lora(module, run.lora.pattern, run.lora.rank, run.lora.alpha)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError("nothing_learns", f"0 of {len(names)} parameters learn", hint="--set freeze=[]")


class LoaderFeed:
    """A loader as the loop wants it; what the frozen tower hasn't said yet is computed here, in the main process.

    Args:
        loader: batches by number.
        features: the store of a frozen tower; None = none.
    """

    def __init__(self, loader: Loader, features: Any = None) -> None:
        self.loader, self.features = loader, features

    @property
    def fingerprint(self) -> str:
        """The loader's."""
        return self.loader.fingerprint

    def __call__(self, number: int) -> Any:
        """Batch `number`."""
        batch = self.loader(number)
        return batch if self.features is None else self.features.fill(batch)

    def keys(self, number: int) -> Sequence[str]:
        """The keys of batch `number`, of all processes."""
        datasets = self.loader.mixture.datasets
        return [datasets[draw.source][draw.row].key for draw in self.loader.draws(number)]

    def state(self) -> Mapping[str, Any]:
        """The bad rows so far."""
        return self.loader.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on counting bad rows."""
        self.loader.restore(state)


def _loader(run: Run, model: Model, out: Path, world: World, tell: Tell) -> tuple[Loader, Any]:
    assert run.collate is not None
    sources = [(_open(source), source.weight) for source in run.data]
    features = None
    if run.store is not None:
        from chiasm.training.features import frozen_features

        before = Path(run.init_from or "") / "features"  # of the stage that came first
        folder = Path(run.store.folder) if run.store.folder else before if before.is_dir() else out / "features"
        limit = int(run.store.limit_gb * 1e9)
        features = frozen_features(
            model.module, model.processor, folder, limit_bytes=limit, dtype=run.store.dtype, tell=tell
        )

    augment = run.augment
    if features is not None and augment is not None:
        tell("augmentation is off: the tower is frozen and its features are stored; to augment: --set store=null")
        augment = None

    def report(bad: BadRow) -> None:
        tell(f"left out {bad.place}: {bad.code}: {bad.reason}")

    loader = Loader(
        Mixture(sources, run.seed),
        run.collate.build(model.processor if features is None else features.processor),
        batch_size=run.batch_size // run.accumulate,
        seed=run.seed,
        workers=run.workers,
        max_bad=run.max_bad,
        lengths=[text_lengths(dataset) for dataset, _ in sources] if run.bucketing else None,
        report=report,
        rank=world.rank,
        world=world.size,
        augment=augment,
    )
    return loader, features


def _open(source: Source) -> Dataset:
    columns = dict(each.partition("=")[::2] for each in source.columns)
    dataset = open_dataset(source.name, images=source.images, columns=columns or None, skip=source.skip)
    return Shuffled(dataset, source.shuffled) if source.shuffled else dataset


def save_adapter(model: Model, folder: Path, run: Run) -> None:
    """Write what learned, in PEFT's format, where the run started from a model that can be named."""
    import shutil

    from chiasm.weights.adapters import write_adapter
    from chiasm.weights.load import layout_for_config

    base = run.model.source if isinstance(run.model, Pretrained) and run.init_from is None else run.init_from
    if base is None:
        return
    names = [name for name, p in model.module.named_parameters() if p.requires_grad]
    whole = [name for name in names if name.rpartition(".")[2] not in ("lora_a", "lora_b")]
    shutil.rmtree(folder, ignore_errors=True)
    write_adapter(folder, model.module, layout_for_config(model.config), model.config, base=base, whole=whole)


def save_model(model: Model, out: Path, run: Run) -> None:
    """Write `OUT/model`: a folder that `chiasm.load` takes, low-rank updates folded in, and `OUT/adapter` beside it."""
    import shutil

    from chiasm.nn.lora import merge_lora

    new, final = out / ".model", out / "model"
    shutil.rmtree(new, ignore_errors=True)
    if run.lora is not None:
        save_adapter(model, out / "adapter", run)
        merge_lora(model.module)
    model.module.eval()
    model.save(new)
    shutil.rmtree(final, ignore_errors=True)
    new.rename(final)
