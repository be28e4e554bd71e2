"""`chiasm inspect`: the exact tokens and pixels that a model would see."""

from __future__ import annotations

from pathlib import Path

from chiasm.cli.ask import split_question, user_turn
from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import emit, note, say


def inspect(
    model: str,
    /,
    *inputs: str,
    save: Path | None = None,
    image_tokens: int | None = None,
    options: Loading = LOADING,
) -> None:
    """Show what a model would see of a question: chiasm inspect MODEL IMAGE... "question".

    Args:
        model: A bundled name, a folder, or a hub id.
        inputs: Picture files, then the question.
        save: Folder for the pictures as the model sees them, one file a crop.
        image_tokens: Most visual tokens for each picture or video.
    """
    pictures, question = split_question(inputs, verb="inspect")
    loaded = options.load(model)
    if image_tokens is not None:
        loaded.processor = loaded.processor.within(image_tokens)
    seen = loaded.inspect([user_turn(pictures, question)])
    document = {"model": model, **seen.to_json(), "saved": []}
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        for number, crops in enumerate(seen.crops):
            for index, crop in enumerate(crops):
                path = save / f"picture{number}_crop{index}.png"
                crop.save(path)
                document["saved"].append(str(path))
    if options.json:
        emit(document)
        return
    say(seen.prompt)
    say(f"{len(seen.token_ids)} tokens")
    for number, (name, picture) in enumerate(zip(pictures, document["pictures"], strict=True)):
        rows, columns = picture["grid"]
        say(
            f"picture {number} {name}: {picture['size'][0]}×{picture['size'][1]} pixels, "
            f"grid {rows}×{columns}, {picture['crops']} crop(s) of {'×'.join(map(str, picture['crop_size']))}, "
            f"{picture['tokens']} tokens, {picture['cropped_share']:.1%} cut off"
        )
    say("memory: " + ", ".join(f"{use} {size / 2**20:.1f} MiB" for use, size in seen.memory.items()))
    for path in document["saved"]:
        note(f"wrote {path}")
