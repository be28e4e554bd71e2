"""Pictures and sounds of held-out scenes find each other: recall both ways, beside the mean picture and chance.

chiasm train imagebind_pico_sounds --out runs/sounds
python benchmarks/sounds.py runs/sounds
"""

from __future__ import annotations

import argparse

import numpy as np

import chiasm
from chiasm.data.collation import picture, sound
from chiasm.data.named import open_named
from chiasm.evaluation.controls import mean_picture
from chiasm.evaluation.metrics.retrieval import first_ranks


def recalls(scores: np.ndarray) -> str:
    """R@1 and R@10 of a square of scores whose diagonal is right, in percent."""
    places = first_ranks(scores, [[row] for row in range(len(scores))])
    return " and ".join(f"{100 * float(np.mean(places < k)):.1f}" for k in (1, 10))


def main() -> None:
    """Measure a model and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", default="scenes:val:sounds?size=96&nouns=24&count=100")
    asked = parser.parse_args()
    model, samples = chiasm.load(asked.model), list(open_named(asked.data))
    shown = [picture(sample).picture().convert("RGB") for sample in samples]
    mean = mean_picture(shown, most=len(shown))
    heard = model.embed_sounds([sound(sample) for sample in samples]).numpy()
    said = model.embed_texts([sample.captions[0] for sample in samples]).numpy()
    for name, pictures in (("seen", shown), ("blind", [mean] * len(shown))):
        scores = np.round(model.embed_images(pictures).numpy().astype(np.float64) @ heard.T, 9)
        print(f"{name}: picture to sound R@1 and R@10 {recalls(scores)}, sound to picture {recalls(scores.T)}")
    print(f"never trained together: text to sound {recalls(np.round(said.astype(np.float64) @ heard.T, 9))}")
    print(f"chance {100 / len(samples):.1f} and {min(100.0, 1000 / len(samples)):.1f}, {len(samples)} scenes")


if __name__ == "__main__":
    main()
