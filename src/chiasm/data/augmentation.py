"""Augmentation of training pictures: a crop, a mirror image, other colours; a function of seed and position alone.

Random resized crops as in Szegedy et al. 2015 ("Going deeper with convolutions", §6) and colour jitter as in Chen et
al. 2020 (SimCLR, app. A), without grey pictures and blur. The position is the sample's in the endless stream of the
run, so an epoch's crops differ from the last one's, and workers, ranks and resuming change nothing. Departures:

* A picture keeps its size, so plans, counts of visual tokens, packing and forecasts stay what they were.
* What the words say must stay true. A sample that speaks of sides or of writing is never mirrored; one that counts,
  places or says that something isn't there is never cut; one with boxes or points keeps its geometry; films stay whole.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import count
from typing import Any

from PIL import Image, ImageEnhance

from chiasm.core.errors import ConfigError
from chiasm.core.messages import Conversation, ImagePart, Part, TextPart
from chiasm.core.samples import Sample
from chiasm.data.order import mixed
from chiasm.processing.pictures import read_picture

_SIDES = re.compile(
    r"\b(left|right|(anti|counter)?-?clockwise|east|west|mirror\w*|facing|read\w*|writ\w*|written|text|letters?|words?|"
    r"says?|spell\w*|digits?|sign|label|chart|axis|flag)\b",
    re.IGNORECASE,
)
_PLACES = re.compile(
    r"\b(where|left|right|top|bottom|upper|lower|cent(er|re)|middle|corner|above|below|under|over|beside|between|near\w*|"
    r"behind|front|many|count\w*|number|how much|more|fewer|most|least|all|every|both|no|not|none|nothing|there|any|"
    r"zero|one|two|three|four|five|six|seven|eight|nine|ten|twelve|dozen|several|chart|read\w*|writ\w*|written|text)\b|\d",
    re.IGNORECASE,
)
_PLACED = ("boxes", "points")
_TRIES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """How pictures are changed in training.

    Attributes:
        least_area: smallest share of a picture that a crop keeps; 1 = no crops.
        stretch: widest ratio by which a crop's shape differs from the picture's, either way.
        flip: share of pictures that are mirrored, left for right.
        brightness, contrast, saturation: greatest change, as a share; 0 = none.
        hue: greatest turn of the colour wheel, as a share of it; 0 = none.
    """

    least_area: float = 0.5
    stretch: float = 4 / 3
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    def __post_init__(self) -> None:
        shares = ("flip", "brightness", "contrast", "saturation")
        bounds = {"least_area": (1e-3, 1.0), "stretch": (1.0, 10.0), "hue": (0.0, 0.5)} | dict.fromkeys(shares, (0, 1))
        for name, (low, high) in bounds.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ConfigError("setting_range", f"augment.{name} is {value}, it lies between {low:g} and {high:g}")

    def sample(self, sample: Sample, seed: int, position: int) -> Sample:
        """The sample with changed pictures; none of them is opened before somebody looks.

        Args:
            sample: any row.
            seed: of the run.
            position: of the sample in the run's stream.
        """
        parts = [part for turn in sample.conversation.messages for part in turn.parts]
        words = " ".join([*sample.captions, *(part.text for part in parts if isinstance(part, TextPart))])
        placed = any(sample.annotations.get(name) for name in _PLACED)
        way = replace(
            self,
            least_area=1.0 if placed or _PLACES.search(words) else self.least_area,
            flip=0.0 if placed or _SIDES.search(words) else self.flip,
        )
        numbers = count()
        turns = (
            replace(
                turn,
                parts=tuple(way.part(part, mixed(seed, "augment", position, next(numbers))) for part in turn.parts),
            )
            for turn in sample.conversation.messages
        )
        return replace(sample, conversation=Conversation(tuple(turns)))

    def part(self, part: Part, seed: int) -> Part:
        """A changed picture; any other part as it is."""
        return replace(part, source=Augmented(part.source, self, seed)) if isinstance(part, ImagePart) else part


@dataclass(frozen=True, slots=True)
class Augmented:
    """A picture as one step of a training sees it; a `LazyPicture`.

    Attributes:
        source: anything that `read_picture` takes.
        way: how it is changed.
        seed: of what is drawn.
    """

    source: Any
    way: Augment
    seed: int

    @property
    def fingerprint(self) -> str:
        """A digest of the pixels."""
        picture = self.picture()
        return f"augmented:{picture.size}:{blake2b(picture.tobytes(), digest_size=20).hexdigest()}"

    def picture(self) -> Image.Image:
        """The changed picture: RGB, as large as the source."""
        rng, way = random.Random(self.seed), self.way
        picture = read_picture(self.source)
        box = crop(picture.size, way, rng)
        if box != (0, 0, *picture.size):
            picture = picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)
        if rng.random() < way.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        enhancers = (ImageEnhance.Brightness, way.brightness), (ImageEnhance.Contrast, way.contrast), (
            ImageEnhance.Color, way.saturation
        )  # fmt: skip
        for enhance, most in enhancers:
            factor = 1 + rng.uniform(-most, most)
            if most:
                picture = enhance(picture).enhance(factor)
        turn = rng.uniform(-way.hue, way.hue)
        return turned(picture, turn) if way.hue else picture


def crop(size: tuple[int, int], way: Augment, rng: random.Random) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random part of a picture, in its pixels; the whole where nothing fits.

    Args:
        size: (width, height).
        way: whose `least_area` and `stretch` bound the part.
        rng: draws.
    """
    width, height = size
    for _ in range(_TRIES if way.least_area < 1 else 0):
        area = rng.uniform(way.least_area, 1.0)
        shape = math.exp(rng.uniform(-1, 1) * math.log(way.stretch))
        across, down = round(width * math.sqrt(area * shape)), round(height * math.sqrt(area / shape))
        if 0 < across <= width and 0 < down <= height:
            left, top = rng.randint(0, width - across), rng.randint(0, height - down)
            return left, top, left + across, top + down
    return 0, 0, width, height


def turned(picture: Image.Image, share: float) -> Image.Image:
    """The picture with its colour wheel turned by `share` of it."""
    hue, saturation, value = picture.convert("HSV").split()
    step = round(share * 256) % 256
    wheel = hue.point([(level + step) % 256 for level in range(256)])
    return Image.merge("HSV", (wheel, saturation, value)).convert("RGB")
