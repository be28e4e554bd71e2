"""A low-rank fine-tune on one's own pictures: it learns, and model and adapter say the same."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

import chiasm
from chiasm.data.collation import Answers
from chiasm.objectives.captioning import NextToken
from chiasm.recipes.run import Lora, Pretrained, Run, Source, Store
from chiasm.recipes.running.carry import Manner, carry_out
from chiasm.training.config import Group
from chiasm.training.logs import read_log

QUESTION = "Which one?"


def test_a_fine_tune_learns_and_its_adapter_is_the_model(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32), (30 * number, 0, 90)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text("yes" if number % 2 else "no")
    chiasm.new("llava").save(tmp_path / "base")
    run = Run(
        recipe="mine",
        family="llava",
        model=Pretrained(source=str(tmp_path / "base")),
        learn=("^connector\\.",),
        lora=Lora(pattern=r"language\.blocks\.\d+\.attn\.[qv]_proj", rank=4),
        data=(Source(name=str(pictures)),),
        collate=Answers(question=QUESTION),
        objective=NextToken(),
        store=Store(),
        steps=30,
        batch_size=8,
        groups=(Group(learning_rate=1e-2),),
    )
    said: list[str] = []
    carry_out(run, tmp_path / "run", Manner(show=False, device="cpu"), said.append)
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    assert losses[-1] < losses[0] / 2
    tuned, adapted = chiasm.load(tmp_path / "run"), chiasm.load(tmp_path / "run" / "adapter")
    turn = {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (32, 32), (30, 0, 90))},
                                        {"type": "text", "text": QUESTION}]}  # fmt: skip
    with torch.inference_mode():
        a, b = (model.module(model.processor([[turn]])) for model in (tuned, adapted))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
