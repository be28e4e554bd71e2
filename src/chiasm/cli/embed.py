"""`chiasm embed`: vectors of pictures, texts and sounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chiasm.cli.bulk import BULK, Bulk, listed_pictures, picture_vectors
from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import UsageError, emit, say

CHUNK = 32  # pictures of a forward pass
Many = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]


def embed(
    model: str,
    /,
    *,
    image: Many = (),
    text: Many = (),
    sound: Many = (),
    truncate: bool = False,
    out: Path | None = None,
    bulk: Bulk = BULK,
    options: Loading = LOADING,
) -> None:
    """Embed pictures, texts or sounds: chiasm embed MODEL --image cat.png dog.png --out cats.npy.

    Args:
        model: A bundled name, a folder, or a hub id.
        image: Picture files, or folders of them.
        text: Texts.
        sound: WAV files, for families that hear (ImageBind).
        truncate: Cut texts that are longer than the model takes, instead of refusing them.
        out: Where to write the vectors: .npy (of one kind) or .safetensors.
    """
    if not image and not text and not sound:
        raise UsageError("neither --image nor --text nor --sound was given", hint="chiasm embed MODEL --image IMAGE")
    if out is not None and out.suffix not in (".npy", ".safetensors"):
        raise UsageError(f"--out ends in {out.suffix!r}, known endings are .npy and .safetensors")
    if out is not None and out.suffix == ".npy" and sum(map(bool, (image, text, sound))) > 1:
        raise UsageError(
            f".npy holds one array; {len(image)} pictures, {len(text)} texts and {len(sound)} sounds make several",
            hint="--out vectors.safetensors",
        )
    files = listed_pictures(image)
    loaded = bulk.checked().load(model, options, needed=bool(text or sound))
    import torch

    vectors = {}
    if files:
        rows = bulk.run(picture_vectors, loaded, model, options, files, CHUNK)
        vectors["images"] = torch.stack([torch.as_tensor(row, dtype=torch.float32) for row in rows])
    if text:
        assert loaded is not None
        vectors["texts"] = loaded.embed_texts(list(text), truncate=truncate).cpu()
    if sound:
        assert loaded is not None
        vectors["sounds"] = loaded.embed_sounds(list(sound)).cpu()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".npy":
            import numpy

            numpy.save(out, next(iter(vectors.values())).numpy())
        else:
            from safetensors.torch import save_file

            save_file({name: value.contiguous() for name, value in vectors.items()}, out)
    shapes = {name: list(value.shape) for name, value in vectors.items()}
    if options.json:
        data = {} if out else vectors
        emit({"model": model, "shapes": shapes, "out": str(out) if out else None, **data})
    elif out is not None:
        say(f"{out}: " + ", ".join(f"{name} {rows}×{width}" for name, (rows, width) in shapes.items()))
    else:
        for value in vectors.values():
            for row in value.tolist():
                say(" ".join(f"{number:.6f}" for number in row))
