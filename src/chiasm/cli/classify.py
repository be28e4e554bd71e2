"""`chiasm classify`: which of these labels fits a picture, without training."""

from __future__ import annotations

from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import UsageError, emit, say


def classify(
    model: str,
    /,
    *images: str,
    labels: str,
    template: tuple[str, ...] = (),
    options: Loading = LOADING,
) -> None:
    """Rank labels for each picture: chiasm classify MODEL IMAGE... --labels cat,dog.

    Args:
        model: A bundled name, a folder, or a hub id.
        images: Picture files.
        labels: Labels, separated by commas.
        template: Sentence around each label, with {} for the label; may be repeated, then averaged.
    """
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not images:
        raise UsageError("no picture was given", hint="chiasm classify MODEL IMAGE --labels cat,dog")
    if len(names) < 2:
        raise UsageError(f"--labels holds {len(names)} label(s), the least is 2", hint="--labels cat,dog")
    if len(set(names)) < len(names):
        raise UsageError(f"--labels holds {len(names)} labels, only {len(set(names))} of them different")
    for text in template:
        if "{}" not in text:
            raise UsageError(f"--template {text!r} has no {{}} for the label", hint='--template "a photo of a {}"')
    ranked = options.load(model).classify(list(images), names, templates=list(template) or None)
    if options.json:
        results = [
            {"image": image, "labels": [{"label": name, "probability": p} for name, p in ranking]}
            for image, ranking in zip(images, ranked, strict=True)
        ]
        emit({"model": model, "results": results})
        return
    for image, ranking in zip(images, ranked, strict=True):
        if len(images) > 1:
            say(image)
        for name, probability in ranking:
            say(f"{probability:7.1%}  {name}")
