"""`Run`: everything that a training run depends on, as plain values; and the registry of recipes, which return one.

A recipe is a Python function without arguments under `@recipe(…)`, in any module of this package: it's found by
itself. Recipes are derived from one another with `dataclasses.replace`, never cloned. A run is written beside what it
made (`recipe.yaml`), and `chiasm train that-file.yaml` repeats it.

Nothing here imports torch: recipes are listed at once, so their modules import torch inside functions only.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import ConfigError
from chiasm.core.spelling import nearest
from chiasm.data.augmentation import Augment
from chiasm.data.collation import CollateConfig
from chiasm.objectives.config import ObjectiveConfig
from chiasm.training.config import AdamW, Constant, Group, Guard, OptimizerConfig, Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from chiasm.models.model import Model
    from chiasm.recipes.running.task import Task

SCALES = ("pico", "nano", "paper")
PARALLEL = ("ddp", "fsdp")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """What is trained. A family's recipe file may add its own: a data class of this base with `build()`."""

    def build(self, family: str, seed: int) -> Model:
        """The model, new or loaded; `seed` draws new weights."""
        raise NotImplementedError

    def skeleton(self, family: str) -> Any:
        """The family's configuration, without weights: what a dry run counts; by default `build`'s own."""
        return self.build(family, 0).config


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiny(ModelConfig):
    """The family's random miniature: for tests, it learns little."""

    def build(self, family: str, seed: int) -> Model:
        from chiasm.weights.load import new

        return new(family, tiny=True, seed=seed)

    def skeleton(self, family: str) -> Any:
        from chiasm.core.registry import family as known

        return known(family).tiny()[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained(ModelConfig):
    """A model that is loaded whole.

    Attributes:
        source: a bundled name, a folder in a published layout, or a hub id.
    """

    source: str

    def build(self, family: str, seed: int) -> Model:
        from chiasm.weights.load import load

        return load(self.source, device="cpu", dtype="float32")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset(ModelConfig):
    """A published size with new weights.

    Attributes:
        name: one of the family's presets.
        processing: a folder or hub id whose tokenizer, template and picture settings are taken.
    """

    name: str
    processing: str | None = None

    def build(self, family: str, seed: int) -> Model:
        from chiasm.recipes.running.building import from_preset

        return from_preset(family, self.skeleton(family), self.processing, seed)

    def skeleton(self, family: str) -> Any:
        from chiasm.core.registry import family as known

        presets = known(family).presets
        if self.name not in presets:
            raise ConfigError(
                "preset_unknown", f"{family} has no preset {self.name!r}", hint=nearest(self.name, list(presets))
            )
        return presets[self.name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Low-rank updates instead of whole matrices (`nn/lora.py`).

    Attributes:
        pattern: regular expression that a linear layer's whole dotted name must match.
        rank, alpha: r and α.
    """

    pattern: str
    rank: int = 8
    alpha: float = 16.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One data set of a mixture.

    Attributes:
        name: a folder or file, whose format is seen from its content, or a named data set with its settings:
            ``scenes`` (generated), ``scenes:train:counting,yes_no?size=128``, a pack (``stamps``, …).
        weight: how often each of its rows is drawn, beside the others' weights.
        images: folder that pictures are looked for in, beside the data's own.
        columns: ``role=column`` each, for tables whose names can't be guessed: ``caption=alt``.
        skip: a skip list that `chiasm data check` wrote.
        shuffled: share of the rows that get another row's captions: noise of a known amount.
    """

    name: str
    weight: float = 1.0
    images: str | None = None
    columns: tuple[str, ...] = ()
    skip: str | None = None
    shuffled: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """What a frozen tower says of a picture is computed once and kept on disk (`training/features.py`).

    Attributes:
        folder: of the store; None = in the run's folder, or that of the stage before it where there is one.
        limit_gb: most gigabytes on disk.
        dtype: of what is kept.
    """

    folder: str | None = None
    limit_gb: float = 20.0
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """A training that isn't samples → batch → objective(module, batch); most recipes need none."""

    def build(self, run: Run, out: Path) -> Task:
        """What the loop trains, on what, and what is written at the end."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A training run.

    Attributes:
        recipe, family, scale, needs: what the recipe was registered as; filled in by `@recipe`.
        model: what is trained.
        init_from: folder of a finished run or of a model whose weights replace the model's, where names agree; one part
            at least must be there whole, and no shape may differ.
        inherit: regular expressions; of `init_from`, only tensors are taken whose name one is found in.
        after: a recipe that is run first, into `OUT/<its name>`, unless `init_from` is given; the run starts from it.
        learn: regular expressions; a parameter learns when one is found in its name.
        freeze: regular expressions; a parameter that one is found in doesn't learn all the same.
        lora: low-rank updates on the language model or elsewhere; they learn, whatever `learn` says.
        data: the mixture.
        augment: random crops, mirror images and colours; off where a frozen tower's features are stored.
        collate: how samples become a batch.
        objective: what is minimised.
        store: keep the frozen vision tower's features; None = compute them every time.
        bucketing: rows of like length share a batch.
        task: replaces model, data, collate and objective by a training of another kind.
        steps: optimizer steps of the whole run.
        batch_size: samples of one optimizer step, over all processes and accumulated parts.
        accumulate: parts that a step's batch is cut into, one after the other.
        checkpoint_every: steps between checkpoints; 0 = only at the end.
        seed: of new weights, order and everything drawn.
        optimizer, schedule, groups: how parameters learn; the first group whose pattern is found in a name takes it.
        clip: largest norm of the gradient; None = not clipped.
        ema: decay of the moving average of the weights, which is then what is saved; None = none.
        bf16: compute in bfloat16 where autocast does and the processor has instructions for it; weights stay float32.
        recompute: keep only the inputs of transformer blocks and compute the rest again (activation checkpointing).
        parallel: on several processes, ``ddp`` keeps whole copies, ``fsdp`` shards them.
        workers: processes that read and prepare batches beside the training; 0 = none.
        guard: what happens to a bad step.
        max_bad: share of the rows that may be unreadable and left out.
        threads: of the processor, for torch; None = as torch decides.
        tensorboard: write TensorBoard's events, too.
    """

    recipe: str = ""
    family: str = ""
    scale: str = "pico"
    needs: str = ""
    model: ModelConfig | None = None
    init_from: str | None = None
    inherit: tuple[str, ...] = ("",)
    after: str | None = None
    learn: tuple[str, ...] = ("",)
    freeze: tuple[str, ...] = ()
    lora: Lora | None = None
    data: tuple[Source, ...] = (Source(name="scenes"),)
    augment: Augment | None = None
    collate: CollateConfig | None = None
    objective: ObjectiveConfig | None = None
    store: Store | None = None
    bucketing: bool = False
    task: TaskConfig | None = None
    steps: int = 1000
    batch_size: int = 32
    accumulate: int = 1
    checkpoint_every: int = 100
    seed: int = 0
    optimizer: OptimizerConfig = AdamW()
    schedule: Schedule = Constant()
    groups: tuple[Group, ...] = (Group(learning_rate=1e-3),)
    clip: float | None = 1.0
    ema: float | None = None
    bf16: bool = False
    recompute: bool = False
    parallel: str = "ddp"
    workers: int = 0
    guard: Guard = Guard()
    max_bad: float = 0.01
    threads: int | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (
            ("steps", self.steps, 1),
            ("batch_size", self.batch_size, 1),
            ("accumulate", self.accumulate, 1),
            ("checkpoint_every", self.checkpoint_every, 0),
            ("workers", self.workers, 0),
        ):
            if value < least:
                raise ConfigError("setting_range", f"{name} is {value}, the least is {least}")
        for name, share, low, high in (
            ("ema", self.ema, 0.0, 1.0),
            ("max_bad", self.max_bad, 0.0, 1.0),
            ("clip", self.clip, 1e-30, float("inf")),
            ("threads", self.threads, 1, 4096),
            *((f"groups.{at}.learning_rate", group.learning_rate, 0.0, 1e6) for at, group in enumerate(self.groups)),
            *((f"data.{at}.weight", source.weight, 1e-30, 1e30) for at, source in enumerate(self.data)),
        ):
            if share is not None and not low <= share <= high:
                raise ConfigError("setting_range", f"{name} is {share:g}, it lies between {low:g} and {high:g}")
        for name, held in (("data", self.data), ("groups", self.groups), ("learn", self.learn)):
            if not held:
                raise ConfigError("setting_range", f"{name} holds nothing, at least 1 is needed")
        if self.scale not in SCALES or self.parallel not in PARALLEL:
            known = f"scale is one of {', '.join(SCALES)}, parallel one of {', '.join(PARALLEL)}"
            raise ConfigError("setting_range", f"scale {self.scale!r}, parallel {self.parallel!r}; {known}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is known of a recipe before it's called."""

    name: str
    family: str
    scale: str
    needs: str
    make: Callable[[], Run]

    def run(self) -> Run:
        """The run, with what it was registered as."""
        return replace(self.make(), recipe=self.name, family=self.family, scale=self.scale, needs=self.needs)


_RECIPES: dict[str, Recipe] = {}


def recipe(*, family: str, scale: str, needs: str) -> Callable[[Callable[[], Run]], Callable[[], Run]]:
    """Register a function without arguments as a recipe under its own name.

    Args:
        family: the family it trains.
        scale: ``pico`` (generated scenes only, minutes on two cores), ``nano`` or ``paper``.
        needs: what data and weights it needs, in words for people.
    """
    assert scale in SCALES, f"scale {scale!r}"

    def add(make: Callable[[], Run]) -> Callable[[], Run]:
        name = make.__name__
        assert name not in _RECIPES or _RECIPES[name].make.__module__ == make.__module__, f"recipe {name} twice"
        _RECIPES[name] = Recipe(name=name, family=family, scale=scale, needs=needs, make=make)
        return make

    return add


def recipes() -> Mapping[str, Recipe]:
    """Every recipe by name, all modules of `chiasm.recipes` imported (its subpackages hold none)."""
    package = importlib.import_module("chiasm.recipes")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            importlib.import_module(f"chiasm.recipes.{module.name}")
    return dict(sorted(_RECIPES.items()))


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`, dashes read as underscores.

    Raises:
        ConfigError: there is none; the nearest name is shown.
    """
    known = recipes()
    plain = name.replace("-", "_")
    if plain not in known:
        raise ConfigError(
            "recipe_unknown",
            f"no recipe {name!r} among {len(known)}; nearest is {nearest(plain, list(known))}",
            hint="chiasm train --list",
        )
    return known[plain]
