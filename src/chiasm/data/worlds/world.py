"""`Scenes`: the generated world as a data set; every sample is a pure function of (options, split, task, index)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from hashlib import sha256

from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation, Message, TextPart
from chiasm.core.samples import Place, Sample
from chiasm.data.worlds.director import Director, World
from chiasm.data.worlds.tasks import grounding, hearing, looking, reading, several, watching
from chiasm.data.worlds.tasks.row import Row, Task
from chiasm.data.worlds.vocabulary import SPLITS

VERSION = 1  # of the samples: changes when the same numbers give another sample
COUNTS = {"train": 20000, "val": 1000, "test": 1000, "unseen": 1000}
TASKS: dict[str, Task] = {
    "captions": looking.captions,
    "describe": looking.describe,
    "naming": looking.naming,
    "position": looking.position,
    "counting": looking.counting,
    "attribute": looking.attribute,
    "comparison": looking.comparison,
    "yes_no": looking.yes_no,
    "negation": looking.negation,
    "boxes": grounding.boxes,
    "referring": grounding.referring,
    "points": grounding.points,
    "places": grounding.places,
    "text": reading.text,
    "charts": reading.charts,
    "small": reading.small,
    "small_names": reading.small_names,
    "small_signs": reading.small_signs,
    "pairs": several.pairs,
    "odd_one_out": several.odd_one_out,
    "entailment": several.entailment,
    "dialogue": several.dialogue,
    "few_shot": several.few_shot,
    "binding": several.binding,
    "video": watching.video,
    "temporal": watching.temporal,
    "sounds": hearing.sounds,
}
DEFAULT = ("naming", "position", "counting", "attribute", "comparison", "yes_no", "negation", "describe")


class Scenes:
    """A `Dataset` of generated samples.

    Args:
        split: `train`, `val`, `test` or `unseen`; see `director` for what each holds out.
        tasks: names of `TASKS`, in turn from row to row; none given = `DEFAULT`.
        count: rows; None = 20,000 to train, 1,000 otherwise. More rows never change earlier ones.
        world: seed, size, names and the like.

    Raises:
        ConfigError: an unknown split or task.
    """

    def __init__(
        self,
        split: str = "train",
        tasks: Sequence[str] = (),
        count: int | None = None,
        world: World | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError("split_unknown", f"split {split!r}; known splits are {', '.join(SPLITS)}")
        for task in tasks:
            if task not in TASKS:
                near = get_close_matches(task, TASKS, 1)
                known = ", ".join(TASKS)
                raise ConfigError("task_unknown", f"scenes have no task {task!r}; known are {known}",
                                  hint=near[0] if near else None)  # fmt: skip
        if count is not None and count < 1:
            raise ConfigError("option_out_of_range", f"count is {count}, it must be at least 1")
        self.split, self.tasks, self.world = split, tuple(tasks) or DEFAULT, world or World()
        self.count = count or COUNTS[split]
        told = "" if self.tasks == DEFAULT else f":{','.join(self.tasks)}"
        self.name = f"scenes:{split}{told}"
        said = f"{VERSION} {split} {self.tasks} {self.count} {sorted(asdict(self.world).items())}"
        self.fingerprint = sha256(said.encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self.count))

    def row(self, index: int) -> Row:
        """What the task of row `index` gives, before it becomes a sample."""
        if not 0 <= index < self.count:
            raise IndexError(f"row {index} of {self.count}")
        task = self.tasks[index % len(self.tasks)]
        return TASKS[task](Director(self.world, self.split, index // len(self.tasks), task))

    def __getitem__(self, index: int) -> Sample:
        """Row `index`; its pictures are drawn when they are read."""
        row = self.row(index)
        messages = []
        for turn in row.turns:
            messages += [Message("user", turn.asked), Message("assistant", (TextPart(turn.answer),))]
        last = row.turns[-1].answer
        task = self.tasks[index % len(self.tasks)]
        annotations = {"kind": row.kind, "task": task, "answers": (last,), "split": self.split, **row.truth}
        return Sample(
            key=f"{self.split}/{task}/{index // len(self.tasks)}",
            conversation=Conversation(tuple(messages)),
            place=Place(self.name, index),
            captions=row.captions,
            annotations=annotations,
        )
