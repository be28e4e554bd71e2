"""A run as a file, and changes to it in words: `recipe.yaml`, `--set a.b=c`."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from chiasm.core.config import choices_of, from_dict, to_dict
from chiasm.core.errors import ConfigError
from chiasm.core.files import write_text
from chiasm.core.spelling import nearest
from chiasm.recipes.run import Run, Source, find_recipe, recipes

FILE = "recipe.yaml"
CHANGEABLE = ("steps", "checkpoint_every", "workers", "tensorboard", "guard", "max_bad", "parallel")


def resolve(recipe: str, changes: Sequence[str] = ()) -> Run:
    """A recipe's run with changes.

    Args:
        recipe: a recipe's name, or a YAML file that a run wrote.
        changes: `a.b=c` each; c is JSON or text.

    Raises:
        ConfigError: no such recipe, no such setting, a value of another kind.
    """
    path = Path(recipe)
    run = read_run(path) if path.suffix in (".yaml", ".yml") else find_recipe(recipe).run()
    for change in changes:
        run = changed(run, change)
    return run


def changed(run: Run, change: str) -> Run:
    """The run with one setting changed.

    Args:
        run: as it is.
        change: `a.b=c`; a number between dots is a place in a list. For a part that is one of several kinds c may be
            a kind's name (`optimizer=Muon`), for `data` a data set's name or a JSON list of names.

    Raises:
        ConfigError: no such setting, a value of another kind, or no equals sign.
    """
    path, equals, text = change.partition("=")
    if not equals:
        raise ConfigError("setting_type", f"{change!r} has no equals sign", hint="--set steps=200")
    _load_kinds()
    tree: Any = to_dict(run)
    keys, value = path.split("."), _value(text)
    holder, owner = tree, Run
    for depth, key in enumerate(keys[:-1]):
        holder, owner = _descend(holder, owner, key, ".".join(keys[: depth + 1]))
    last = keys[-1]
    known, kind = _known(holder, owner)
    if isinstance(holder, list):
        at = _place(holder, last, path)
        holder[at] = value
    elif last not in known:
        raise _unknown(path, last, known, kind)
    else:
        holder[last] = _shorthand(kind, last, value)
    return _typed(tree, path, text)


def write_run(run: Run, path: Path) -> None:
    """Store a run; the file is there whole or not at all."""
    text = "# every setting of this run; chiasm train THIS_FILE --out DIR repeats it\n"
    text += yaml.safe_dump(to_dict(run), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def read_run(path: Path) -> Run:
    """Read what `write_run` wrote; settings that are left out are the recipe's own, or the defaults.

    Raises:
        ConfigError: no such file, or it holds no run.
    """
    if not path.is_file():
        raise ConfigError("recipe_unknown", f"no file {path}", hint="chiasm train --list")
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("recipe_unreadable", f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError("recipe_unreadable", f"{path} holds a {type(tree).__name__}, not settings")
    _load_kinds()
    name = str(tree.get("recipe"))
    known = recipes()
    base = to_dict(known[name].run()) if name in known else {}
    unknown = [key for key in tree if key not in {field.name for field in dataclasses.fields(Run)} | {"type"}]
    if unknown:
        near = nearest(str(unknown[0]), [field.name for field in dataclasses.fields(Run)])
        raise ConfigError("setting_unknown", f"{path}: no setting {unknown[0]!r}; the nearest is {near!r}")
    run = from_dict(Run, {**base, **tree}, where=str(path))
    assert isinstance(run, Run)
    return run


def differences(stored: Run, now: Run) -> list[tuple[str, Any, Any]]:
    """Settings that differ and that a run can't go on with: name, stored value, value now."""
    a, b = to_dict(stored), to_dict(now)
    return [(name, a[name], b[name]) for name in a if a[name] != b[name] and name not in CHANGEABLE]


def _load_kinds() -> None:
    """Import what defines the kinds that a file may name: every objective, every recipe."""
    objectives = importlib.import_module("chiasm.objectives")
    for module in pkgutil.iter_modules(objectives.__path__):
        importlib.import_module(f"chiasm.objectives.{module.name}")
    recipes()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _descend(holder: Any, owner: Any, key: str, path: str) -> tuple[Any, Any]:
    known, kind = _known(holder, owner)
    if isinstance(holder, list):
        return holder[_place(holder, key, path)], kind
    if key not in known:
        raise ConfigError(
            "setting_unknown",
            f"no setting {path!r}; the nearest is {nearest(key, known)!r}",
            hint="chiasm train --list",
        )
    return holder[key], typing.get_type_hints(_class(owner, holder))[key]


def _known(holder: Any, owner: Any) -> tuple[list[str], Any]:
    """The names inside a part, and the annotation of its members (lists) or the class that has them."""
    if isinstance(holder, list):
        return [str(at) for at in range(len(holder))], typing.get_args(owner)[0]
    if not isinstance(holder, dict):
        return [], owner
    made = _class(owner, holder)
    return [field.name for field in dataclasses.fields(made)], made


def _class(owner: Any, holder: dict[str, Any]) -> Any:
    by_name = {kind.__name__: kind for kind in choices_of(owner)}
    return by_name.get(holder.get("type", ""), owner)


def _unknown(path: str, key: str, known: list[str], kind: Any) -> ConfigError:
    known = [name for name in known if name != "type"]
    if not known:
        what = f"no setting {path!r}: {key!r} stands in a part that has none"
        kinds = [made.__name__ for made in choices_of(kind)]
        hint = f"--set {path.rpartition('.')[0]}={kinds[0]} before it" if kinds else None
        return ConfigError("setting_unknown", what, hint=hint)
    near = ".".join([*path.split(".")[:-1], nearest(key, known)])
    return ConfigError("setting_unknown", f"no setting {path!r}; the nearest is {near!r}", hint=f"--set {near}=…")


def _place(holder: list[Any], key: str, path: str) -> int:
    if not key.isdigit() or int(key) >= len(holder):
        raise ConfigError("setting_unknown", f"{path!r}: {key!r} is not one of the {len(holder)} places 0, 1, …")
    return int(key)


def _shorthand(made: Any, name: str, value: Any) -> Any:
    """What short words stand for: names of data sets, a kind of part by its name."""
    hint = typing.get_type_hints(made)[name]
    if hint == tuple[Source, ...]:
        listed = value if isinstance(value, list) else [value]
        return [{"name": each} if isinstance(each, str) else each for each in listed]
    if not isinstance(value, str):
        return value
    if typing.get_origin(hint) is tuple:
        return [value]
    kinds = {kind.__name__.lower(): kind.__name__ for kind in choices_of(hint)}
    if not kinds:
        return value
    if value.lower() not in kinds:
        raise ConfigError(
            "setting_type", f"{name} has no kind {value!r}; the nearest is {nearest(value.lower(), list(kinds))}"
        )
    return {"type": kinds[value.lower()]}


def _typed(tree: Any, path: str, text: str) -> Run:
    try:
        run = from_dict(Run, tree, where="")
    except ConfigError as error:
        if error.code == "setting_range":
            raise
        raise ConfigError("setting_type", f"setting {path}={text}: {error.what.lstrip('.')}") from None
    assert isinstance(run, Run)
    return run
