"""Tasks: one short file each, found by itself; a file's `TASKS` lists what it offers."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache

from chiasm.core.errors import ConfigError
from chiasm.evaluation.protocol import Task


@cache
def tasks() -> dict[str, Task]:
    """Every task by name."""
    found: dict[str, Task] = {}
    for module in pkgutil.iter_modules(__path__):
        for task in getattr(importlib.import_module(f"{__name__}.{module.name}"), "TASKS", ()):
            assert task.name not in found, f"task {task.name} defined twice"
            found[task.name] = task
    return dict(sorted(found.items()))


def chosen(names: Sequence[str]) -> list[Task]:
    """Tasks by names and names of groups, each once, in the order asked.

    Raises:
        ConfigError: an unknown name; the known ones are listed.
    """
    known = tasks()
    found: dict[str, Task] = {}
    for name in names:
        members = [task for task in known.values() if task.group == name]
        if name not in known and not members:
            every = sorted({*known, *(task.group for task in known.values() if task.group)})
            raise ConfigError(
                "task_unknown", f"no task {name!r}; known are {', '.join(every)}", hint="chiasm eval --list"
            )
        found |= {task.name: task for task in ([known[name]] if name in known else []) + members}
    return list(found.values())
