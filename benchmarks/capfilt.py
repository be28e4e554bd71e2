"""What CapFilt is worth: dual encoders from scratch on openclipart's noisy captions, on filtered, written and both.

    python benchmarks/capfilt.py --out runs/capfilt

Trains a captioner and a filter on the stamps that aren't held out (`recipes/capfilt.py`), cleans openclipart's captions
with them (`chiasm curate`), and trains a dual encoder on each of four sets of pairs: the original captions, those that
the filter keeps, the written ones, and what `curate` keeps of both. All sets are cut to the size of the smallest, all
runs have the same steps. Picture features are a frozen EfficientNet-Lite's; both heads and the words are new. Figures
are recalls on held-out stamps, both ways averaged, over seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from chiasm.data.packs import Picture, load_pack
from chiasm.evaluation.metrics.retrieval import first_ranks
from chiasm.evaluation.protocol import Source
from chiasm.evaluation.statistics import interval, resamples
from chiasm.evaluation.tasks.stamps import load as held_out
from chiasm.language.recurrent import RecurrentConfig
from chiasm.objectives.contrastive import info_nce
from chiasm.processing.miniature import tiny_tokenizer
from chiasm.processing.tokenizer import Tokenizer
from chiasm.recipes.trainings.nano_dual import view_features
from chiasm.weights.frozen import efficientnet_lite

Pair = tuple[str, str]  # a picture's key and a caption
WIDTH, STEPS, BATCH = 128, 300, 128


class Small(nn.Module):
    """Two heads: on a frozen tower's descriptor, and a GRU over words."""

    def __init__(self, features: torch.Tensor, vocab: int) -> None:
        super().__init__()
        self.register_buffer("shift", features.mean(0))
        self.register_buffer("scale", 1 / (features.std(0) + 1e-3))
        hidden = 2 * WIDTH
        self.pictures = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(features.shape[1], hidden), nn.GELU(), nn.Linear(hidden, WIDTH)
        )
        text = RecurrentConfig(vocab_size=vocab, context_length=32, embed_dim=WIDTH, hidden_dim=WIDTH)
        self.texts, self.proj = text.build(), nn.Linear(WIDTH, WIDTH)
        self.logit_scale = nn.Parameter(torch.tensor(2.7))

    def forward(self, features: torch.Tensor, ids: torch.Tensor, attend: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, D), (B, T), (B, T) → two times (B, E), L2-normalised."""
        seen = self.pictures((features - self.shift) * self.scale)
        return F.normalize(seen, dim=-1), F.normalize(self.proj(self.texts(ids, attend)), dim=-1)


def encoded(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids and their mask."""
    rows = [tokenizer.encode(text, first=False)[:32] or [tokenizer.pad_id] for text in texts]
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_id)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return ids, torch.arange(ids.shape[1]) < torch.tensor([len(tokens) for tokens in rows])[:, None]


def trained(pairs: list[Pair], where: dict[str, int], features: torch.Tensor, tokenizer: Tokenizer, seed: int) -> Small:
    """A dual encoder on some pairs."""
    torch.manual_seed(seed)
    module = Small(features[[where[key] for key, _ in pairs]], len(tokenizer))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        chosen = [pairs[at] for at in torch.randperm(len(pairs))[:BATCH].tolist()]
        texts = [text for _, text in chosen]
        images, words = module(features[[where[key] for key, _ in chosen]], *encoded(tokenizer, texts))
        names = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        said = torch.tensor([names[text] for text in texts])
        loss = info_nce(images, words, module.logit_scale.exp().clamp(max=60), same=said[:, None] == said)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module.eval()


@torch.inference_mode()
def places(module: Small, features: torch.Tensor, texts: list[str], tokenizer: Tokenizer) -> np.ndarray:
    """(2, N) places of each picture's caption and of each caption's picture."""
    images, words = module(features, *encoded(tokenizer, texts))
    scores, own = (images @ words.T).numpy(), [[at] for at in range(len(texts))]
    return np.stack([first_ranks(scores, own), first_ranks(scores.T, own)])


def sets_of(decisions: list[dict[str, Any]]) -> dict[str, list[Pair]]:
    """The four sets of pairs."""
    found: dict[str, list[Pair]] = {name: [] for name in ("original", "filtered", "synthetic", "CapFilt")}
    for line in decisions:
        for caption in line.get("captions", ()):
            pair, origin = (line["key"], caption["text"].lower()), caption["origin"]
            found[origin].append(pair)
            if caption["kept"]:
                found["CapFilt"].append(pair)
                if origin == "original":
                    found["filtered"].append(pair)
    return found


def command(*words: str) -> None:
    """One command of `chiasm`."""
    subprocess.run([sys.executable, "-m", "chiasm", *words], check=True)


def main() -> None:
    """Everything, whatever is finished not again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/capfilt"))
    parser.add_argument("--rows", type=int, default=1600, help="of openclipart")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    out: Path = args.out
    for name in ("captioner", "filter"):
        if not (out / name / "result.json").is_file():
            command("train", f"capfilt_{name}", "--resume", "--out", str(out / name))
    data, clean = f"clipart:train?count={args.rows}", out / f"clean_{args.rows}"
    command("curate", data, "--captioner", str(out / "captioner"), "--filter", str(out / "filter"), "--out",
            str(clean), "--truncate", "--max-new-tokens", "24", "--resume")  # fmt: skip
    decisions = [json.loads(line) for line in (clean / "curation" / "decisions.jsonl").read_text("utf-8").splitlines()]
    sets, items = sets_of(decisions), held_out("caption")(Source()).items
    texts = [item.references[0].lower() for item in items]

    pictures = {picture.key: picture for pack in ("clipart", "stamps") for picture in load_pack(pack)}
    wanted = [*dict.fromkeys(key for pairs in sets.values() for key, _ in pairs), *(item.key for item in items)]
    features = descriptors([pictures[key] for key in wanted], out / "features").float()
    where = {key: row for row, key in enumerate(wanted)}
    tokenizer = tiny_tokenizer("bert", corpus=[text for pairs in sets.values() for _, text in pairs])
    least = min(map(len, sets.values()))
    print(f"{len(decisions)} rows; pairs " + ", ".join(f"{name} {len(pairs)}" for name, pairs in sets.items())
          + f"; {least} of each; {len(items)} held-out stamps")  # fmt: skip
    test = features[[where[item.key] for item in items]]
    for title, size in (("equal size", least), ("all there are", None)):
        found = {}
        for name, pairs in sets.items():
            runs = []
            for seed in range(args.seeds):
                chosen = random.Random(seed).sample(pairs, size or len(pairs))
                runs.append(places(trained(chosen, where, features, tokenizer, seed), test, texts, tokenizer))
            found[name] = np.stack(runs)  # (seeds, 2, N)
        tell(title, found)


def tell(title: str, found: dict[str, np.ndarray]) -> None:
    """A line a set: recalls, and how far R@10 is above the original's, with an interval over stamps."""
    base = (found["original"] < 10).mean((0, 1))  # (N,)
    draws = resamples([str(at) for at in range(len(base))], 2000)
    for name, ranks in found.items():
        gain = (ranks < 10).mean((0, 1)) - base
        low, high = interval([gain[draw].mean() for draw in draws])
        seeds = " ".join(f"{100 * value:.1f}" for value in (ranks < 10).mean((1, 2)))
        recalls = f"R@1 {100 * (ranks < 1).mean():5.1f}  R@10 {100 * (ranks < 10).mean():5.1f} (seeds {seeds})"
        over = f"{100 * gain.mean():+5.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        print(f"{title}: {name:<10} {recalls}  over original {over}", flush=True)


def descriptors(pictures: list[Picture], folder: Path) -> torch.Tensor:
    """(N, D) EfficientNet-Lite's descriptors of plain pictures, computed once."""
    import copy
    import hashlib

    from chiasm.nn.storage import narrow_type

    tower = efficientnet_lite("efficientnet_lite0")
    half = copy.deepcopy(tower).to(narrow_type())
    listed = hashlib.sha256("\n".join(picture.key for picture in pictures).encode()).hexdigest()
    description: dict[str, object] = {"pictures": listed, "tower": "efficientnet_lite0", "kind": "descriptor"}
    shape = (tower.config.descriptor_dim,)
    return view_features(pictures, 1, half.descriptor, shape, tower, folder, description)


if __name__ == "__main__":
    main()
