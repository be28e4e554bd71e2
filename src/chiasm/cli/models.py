"""`chiasm models`: the bundled models and every family."""

from __future__ import annotations

from typing import Any

from chiasm.cli.options import OUTPUT, Output
from chiasm.cli.output import emit, say


def models(*, options: Output = OUTPUT) -> None:
    """List the bundled models, and every family with its capabilities and published sizes."""
    import chiasm
    from chiasm.weights.bundled import SUMMARIES, bundled_folders

    bundled = {name: SUMMARIES[name] for name in bundled_folders()}
    families: list[dict[str, Any]] = [
        {
            "name": family.name,
            "summary": family.summary,
            "paper": family.paper,
            "capabilities": list(family.capabilities),
            "presets": sorted(family.presets),
        }
        for family in chiasm.families().values()
    ]
    if options.json:
        emit({"bundled": [{"name": name, "summary": text} for name, text in bundled.items()], "families": families})
        return
    say("Bundled models (chiasm ask NAME …):")
    for name, text in bundled.items():
        say(f"  {name:12} {text}")
    say("Families (chiasm new NAME --tiny --out FOLDER, or any folder in their published layout):")
    for family in families:
        say(f"  {family['name']:12} {family['summary']} [{', '.join(family['capabilities'])}]")
        say(f"  {'':12} sizes: {', '.join(family['presets']) or 'none published'}")
