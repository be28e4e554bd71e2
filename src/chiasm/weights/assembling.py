"""Models that are published in parts by different people, put together into one folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from chiasm.core.errors import CheckpointError
from chiasm.core.registry import family
from chiasm.language.decoder import DecoderConfig
from chiasm.models.assembly import Parts
from chiasm.models.model import Model
from chiasm.processing.tokenizer import Tokenizer
from chiasm.weights.checkpoint import PICKLES, open_checkpoint, read_config
from chiasm.weights.convert import ConvertReport, convert, unpickled
from chiasm.weights.layouts import minigpt4 as parts
from chiasm.weights.layouts.languages import language_config
from chiasm.weights.load import writer_for
from chiasm.weights.meta import build_on_meta, shapes_of

SLOT = "<image>"


def minigpt4(source: Path, language: Path, out: Path, seconds: int) -> ConvertReport:
    """MiniGPT-4 from its own map, BLIP-2's Q-Former, EVA's tower and Vicuna; see `layouts.minigpt4`.

    Args:
        source: the folder of the three pickled files.
        language: Vicuna's, with its tokenizer; safetensors or pickles.
        out: the folder to write, in this library's own layout, in Vicuna's type.
        seconds: processor time that one file may take.

    Raises:
        CheckpointError: ``parts_missing``: one of the parts isn't there; or as `convert` and loading do.
    """
    files = sorted(path for path in source.iterdir() if path.suffix in PICKLES)
    state: dict[str, torch.Tensor] = {}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="chiasm-parts-") as scratch:
        (Path(scratch) / "files").mkdir()
        for file in files:
            tensors, left = unpickled(file, Path(scratch) / "files", seconds)
            skipped.update(left)
            state.update(parts.read_part(tensors))
        for name, what in ((parts.MARK, "the map"), ("query_tokens", "the Q-Former"), ("cls_token", "EVA's tower")):
            if name not in state:
                told = ", ".join(file.name for file in files)
                raise CheckpointError("parts_missing", f"{source}: {what} ({name}) is in none of {told}")
        if not any(language.glob("*.safetensors")):
            convert(language, Path(scratch) / "language", seconds=seconds)
            language = Path(scratch) / "language"
        decoder = language_config(read_config(language), f"{language.name}/config.json")
        assert isinstance(decoder, DecoderConfig), "LLaMA's kind is one"
        tokenizer = Tokenizer.from_folder(language)
        tokenizer.add_control(SLOT)
        config = parts.config_of(
            {n: tuple(t.shape) for n, t in state.items()}, decoder, tokenizer.token_to_id(SLOT) or 0
        )
        words = open_checkpoint(language)
        state.update({parts.LANGUAGE + name: words[name] for name in words})
        kind = state[parts.LANGUAGE + "model.embed_tokens.weight"].dtype
        module, table = build_on_meta(config), parts.table(config)
        table.check({name: tuple(t.shape) for name, t in state.items()}, shapes_of(module), str(source))
        module.load_state_dict({n: t.to(kind) for n, t in table.to_ours(state).items()}, assign=True)
    has = family("minigpt4")
    Model(module, has.processor(config, Parts(tokenizer)), has, config, writer=writer_for(config)).save(out)
    made = sorted(path.name for path in out.iterdir())
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    names = (*(file.name for file in files), language.name)
    return ConvertReport(names, len(module.state_dict()), size, skipped, tuple(made))
